"""What is killed and resumed ends as what was not."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np

from app.jobs.folder import JobFolder
from tests.training.forked import Forked

_KILLS = 3

# All that has a state of its own: dropout's seeds, an adaptive optimizer, an average, a schedule, bfloat16.
_EVERYTHING = {
    "dataset": "shapes",
    "shapes": {"images": 1000, "noise": 0.3},
    "architecture": {"name": "simple_cnn", "filters": [8], "dense_units": 16, "dropout": 0.3},
    "augmentation": {"rotation": 10, "shift": 0.1, "crop_padding": 2, "cutout": 4, "mixup": 0.2, "rand_augment": 1},
    "optimizer": "adamw",
    "weight_average": 0.95,
    "label_smoothing": 0.1,
    "mixed_precision": True,
    "batch_size": 4,
    "epochs": 3,
}


def _run(job: JobFolder, workspace: Path, result: Path, kill_at: int) -> int:
    arguments = [str(job.path), str(workspace), str(result), str(kill_at)]
    return Forked("tests.training.resumable", arguments, log=job.path / "log.txt").wait(200)


def test_killed_at_random_steps_a_run_ends_with_the_same_curve_and_weights(
    submit: Any, workspace: Path, tmp_path: Path
) -> None:
    """`kill -9` at three random steps, each time resumed: history and weights are those of an unbroken run, bit by bit.

    The unbroken run is a process of its own, so this is also: same seed, same machine, same result.
    """
    unbroken, broken = submit(**_EVERYTHING), submit(**_EVERYTHING)
    assert _run(unbroken, workspace, tmp_path / "unbroken.npz", -1) == 0, (unbroken.path / "log.txt").read_text()
    steps = next(line.steps for line in unbroken.progress() if line.steps)
    kills = np.sort(np.random.default_rng(3).choice(np.arange(20, 3 * steps), _KILLS, replace=False))
    for kill_at in kills:
        status = _run(broken, workspace, tmp_path / "broken.npz", int(kill_at))
        assert status == -signal.SIGKILL, (broken.path / "log.txt").read_text()
    assert _run(broken, workspace, tmp_path / "broken.npz", -1) == 0, (broken.path / "log.txt").read_text()
    log = (broken.path / "log.txt").read_text()
    resumed_amid = sum("resuming after epoch" in line and line.endswith("steps") for line in log.splitlines())
    assert resumed_amid == _KILLS, log

    with np.load(tmp_path / "unbroken.npz") as one, np.load(tmp_path / "broken.npz") as other:
        assert str(one["history"]) == str(other["history"])
        assert one.files == other.files
        for name in one.files:
            np.testing.assert_array_equal(one[name], other[name])
