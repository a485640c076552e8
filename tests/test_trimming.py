"""What is freed goes back to the system, where the C library can be asked for it."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from app.trimming import return_large_blocks, trim_memory


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_the_library_of_this_process_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """For all that it can give."""
    asked: list[tuple[object, int]] = []

    def library(name: object) -> SimpleNamespace:
        return SimpleNamespace(malloc_trim=lambda keep: asked.append((name, keep)))

    trim_memory()
    monkeypatch.setattr(ctypes, "CDLL", library)
    trim_memory()
    assert asked == [(None, 0)]


@pytest.mark.parametrize("error", [OSError, AttributeError, TypeError])
def test_where_there_is_no_such_thing_nothing_happens(monkeypatch: pytest.MonkeyPatch, error: type[Exception]) -> None:
    """Other systems have other libraries."""
    asked: list[object] = []

    def library(name: object) -> object:
        asked.append(name)
        raise error("Not here.")

    monkeypatch.setattr(ctypes, "CDLL", library)
    trim_memory()
    return_large_blocks()
    assert asked == [None, None]


_FREED = """
import ctypes, sys
from pathlib import Path
from app.trimming import return_large_blocks

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

if sys.argv[1] == "returned":
    return_large_blocks()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size, small = 24 * 2**20, []
libc.free(libc.malloc(size))
before = resident()
block = libc.malloc(size)
ctypes.memset(block, 1, size)
small = [libc.malloc(100) for _ in range(1000)]
libc.free(block)
print((resident() - before) // 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_large_blocks_are_returned_when_they_are_freed() -> None:
    """Also where one was freed before, from which the library learns to keep them, and a small one lies behind."""
    kept, returned = (
        int(subprocess.run([sys.executable, "-c", _FREED, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "returned")
    )
    assert returned < 4
    assert kept > 16
