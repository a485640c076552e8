"""A decoded dataset that is larger than the memory."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.system import missing
from tests.training.forked import Forked

# Bytes that the process may take beyond what it needed for a tenth of the images; all of them are 98 MB.
ROOM = 48 * 2**20


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_dataset(submit: Any, workspace: Path, tmp_path: Path) -> None:
    """Ten times the images, memory-mapped, take the memory that a tenth does, but for a few bytes an image.

    And a process that the kernel gives less than them trains on them all the same.
    """
    job = submit(
        dataset="noise",
        architecture={"name": "simple_cnn", "filters": [2], "pool_size": 4, "dense_units": 0},
        epochs=1,
        batch_size=64,
    )
    log = tmp_path / "log.txt"
    hungry = Forked("tests.training.hungry", [str(job.path), str(tmp_path), str(ROOM), "800", "8000"], log=log)
    assert hungry.wait(200) == 0, log.read_text()
    small, large = (int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("PEAK"))
    if "LIMIT kept" not in log.read_text():
        missing("a kernel that limits memory (RLIMIT_DATA)")
    # The additional images are 88 MB. A copy of the smallest split of them would be 30 MB.
    assert large - small < 20e6
