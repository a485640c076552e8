"""A dataset ten times as large as the memory that its job may take."""

from __future__ import annotations

import io
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.trainings.jobs import train
from benchmarks.trainings.results import Memory

_SIDE = 512
_TIMES = 10
_END_SECONDS = 5.0
# Control groups as a kernel has them: version 1 with a folder a kind, version 2 in one.
_FIRST, _SECOND = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")


class Unavailable(Exception):
    """The system does not let this program limit memory."""


def measure(folder: Path, limit: int) -> Memory:
    """Train an epoch of a small network on pictures that are `_TIMES` the `limit` when decoded, all within `limit`.

    Raises:
        Unavailable: control groups need the superuser.
        JobFailed: it did not fit, for one.
    """
    count = _TIMES * limit // (_SIDE * _SIDE * 3) + 1
    pictures = _pictures(folder / "pictures", count)
    group = _group(limit)
    try:
        spec = {
            "architecture": {"name": "simple_cnn", "filters": [4], "pool_size": 4, "dense_units": 0},
            "preprocessing": {"height": _SIDE, "width": _SIDE},
            "near_duplicates": "ignore",
            "epochs": 1,
            # A batch of large pictures is what a network needs memory for, whatever the size of the dataset.
            "batch_size": 8,
            "splits": {"validation": 0.01, "test": 0.01},
        }
        run = train("more than fits", str(pictures), spec, folder / "job", group=group)
        return Memory(limit=limit, decoded=count * _SIDE * _SIDE * 3, peak=_peak(group), seconds=run.seconds)
    finally:
        end(group)


def _pictures(folder: Path, count: int) -> Path:
    """Small files that are large when decoded."""
    random = np.random.default_rng(0)
    for number in range(count):
        path = folder / ("light", "dark")[number % 2] / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 128, (4, 4, 3)) + (128 if number % 2 == 0 else 0)
        picture = io.BytesIO()
        Image.fromarray(coarse.astype(np.uint8)).resize((_SIDE, _SIDE)).save(picture, "JPEG", quality=60)
        path.write_bytes(picture.getvalue())
    return folder


def _group(limit: int) -> Path:
    first = (_FIRST / "memory.limit_in_bytes").exists()
    group = (_FIRST if first else _SECOND) / f"fovea-benchmark-{os.getpid()}"
    try:
        group.mkdir()
        (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
    except OSError as error:
        raise Unavailable(f"a control group for memory cannot be made here: {error}") from error
    return group


def end(group: Path) -> None:
    """Remove a control group, with what is still at work in it: a trainer outlives who asked for it.

    Says nothing where that fails: what failed before it is the news.
    """
    give_up = time.monotonic() + _END_SECONDS
    with suppress(OSError):
        while (running := (group / "cgroup.procs").read_text().split()) and time.monotonic() < give_up:
            for process in running:
                with suppress(ProcessLookupError):
                    os.kill(int(process), signal.SIGKILL)
            time.sleep(0.05)
    with suppress(OSError):
        group.rmdir()


def _peak(group: Path) -> int:
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / name).exists():
            return int((group / name).read_text())
    return 0
