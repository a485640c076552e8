"""Compiles a version and times its engines: `python -m app.preparer`, as `app.serving.preparation` starts it."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

from app.garbage import paused
from app.numpy_import import import_numpy

_LOWEST_NICE = 19
# Where memory runs out the kernel ends this process, and not the server. From -1000 to 1000.
_OOM_SCORE = 600


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


def yield_to_others() -> None:
    """Let this process have only what nobody else wants."""
    with suppress(OSError, AttributeError):  # not on every system
        os.setpriority(os.PRIO_PROCESS, 0, _LOWEST_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE))


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
