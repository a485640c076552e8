"""Importing NumPy, for processes that serve."""

from __future__ import annotations

import os

_THREADS = "OPENBLAS_NUM_THREADS"


def import_numpy() -> None:
    """Import NumPy without the threads of its linear algebra.

    Nothing here multiplies matrices in NumPy; but to start the threads, one a core, takes as much processor time as all
    else of the import. Threads that the environment asks for are started.
    """
    asked = _THREADS in os.environ
    os.environ.setdefault(_THREADS, "1")
    try:
        import numpy  # noqa: F401 - for its own sake
    finally:
        # Not for the processes that this one starts: a trainer may multiply.
        if not asked:
            del os.environ[_THREADS]
