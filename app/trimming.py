"""Giving memory back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# Of glibc's malloc.h.
_MMAP_THRESHOLD = -3
# A decoded picture of more than a million pixels; smaller ones are decoded too often to ask the system for each.
_LARGE_BYTES = 4 * 2**20


def trim_memory() -> None:
    """Have the C library return what it holds free: it keeps some for each thread that ever loaded a version.

    Takes milliseconds, without Python's lock. Does nothing where the library is not glibc.
    """
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows has no library of the process itself
        ctypes.CDLL(None).malloc_trim(0)


def return_large_blocks() -> None:
    """Have the C library return large blocks as soon as they are freed; for a process's entry point to call.

    Left alone it learns from the first large picture to keep such blocks, for each thread, and what small ones leave of
    them cannot be given back. Does nothing where the library is not glibc.
    """
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, _LARGE_BYTES)
