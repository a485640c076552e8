"""How many cores there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.cores import available_cores


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", 10_000), ("150000 100000", 2), ("10000 100000", 1), ("?", 10_000)]
)
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, quota: str, most: int) -> None:
    """A container that may use a core and a half on a machine of 64 has no use for 64 threads."""
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    everything = available_cores(tmp_path / "absent")
    assert available_cores(file) == min(everything, most) >= 1
