"""What is freed goes back to the system, where the C library can be asked for it."""

from __future__ import annotations

import ctypes
import sys
from types import SimpleNamespace

import pytest

from app.serving.trimming import trim_memory


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
    assert asked == [None]
