"""One of several serving processes: `python -m app.worker`, as `app.api.workers` starts it."""

from __future__ import annotations

import sys

from app.garbage import paused
from app.numpy_import import import_numpy


def main(arguments: list[str]) -> None:
    """Serve on the socket that `arguments` name, until told to stop; see `app.api.workers.Worker`."""
    with paused():
        import_numpy()
        from app.main import serve_in_crew

        serve_in_crew(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
