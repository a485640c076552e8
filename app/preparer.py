"""Compiles a version and times its engines: `python -m app.preparer`, as `app.serving.preparation` starts it."""

from __future__ import annotations

import os
import sys
import threading

from app.garbage import paused
from app.numpy_import import import_numpy
from app.priority import yield_to_others


def main() -> None:
    """Do the task that stands on the first line of the standard input, for as long as that is open."""
    # Before all else: what is imported takes as long as what is to be done.
    yield_to_others()
    with paused():
        import_numpy()
        from app.serving.preparation import perform

    task = sys.stdin.buffer.readline()
    end_with_parent()
    perform(task)


def end_with_parent() -> None:
    """End this process when the one that started it closes the standard input, which it does at its end at the latest,
    even if it is killed.
    """
    threading.Thread(target=_await_end, daemon=True).start()


def _await_end() -> None:
    # Past the stream, whose lock the interpreter would miss at its end.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
