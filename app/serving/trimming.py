"""Giving memory back to the system once an engine is closed."""

from __future__ import annotations

import ctypes
from contextlib import suppress


def trim_memory() -> None:
    """Have the C library return what it holds free: it keeps some for each thread that ever loaded a version.

    Takes milliseconds, without Python's lock. Does nothing where the library is not glibc.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library of the process itself
        ctypes.CDLL(None).malloc_trim(0)
