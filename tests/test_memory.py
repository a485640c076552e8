"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

from app.memory import memory_limit, peak_memory


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    """Control groups of both versions, seen from inside of a container and from outside."""
    own = tmp_path / "own"
    own.write_text("")
    machine = memory_limit(tmp_path / "none", own)
    assert machine > 2**28
    _write(tmp_path / "v2" / "memory.max", "max\n")
    assert memory_limit(tmp_path / "v2", own) == machine
    _write(tmp_path / "v2" / "memory.max", "1000000\n")
    assert memory_limit(tmp_path / "v2", own) == 1_000_000
    _write(tmp_path / "v1" / "memory" / "jobs" / "memory.limit_in_bytes", "2000000\n")
    own.write_text("12:cpu,cpuacct:/elsewhere\n9:memory:/jobs\n")
    assert memory_limit(tmp_path / "v1", own) == 2_000_000
    _write(tmp_path / "v2" / "user.slice" / "memory.max", "500000\n")
    own.write_text("0::/user.slice\n")
    assert memory_limit(tmp_path / "v2", own) == 500_000


def test_the_peak_is_at_least_what_is_held() -> None:
    """A process of Python holds some megabytes."""
    assert 4e6 < peak_memory() < 1e12
