"""`python -m app.training JOB_FOLDER`, as a process."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.jobs.folder import JobFolder
from app.store.datasets import Datasets
from app.store.registry import Registry
from app.training import __main__ as trainer
from tests.store.archives import make_zip, picture
from tests.training.forked import Forked

# So few dark pictures that they cannot train, validate and test.
_FEW = {"dark": range(2), "light": range(100, 250, 5)}


def _start(job: JobFolder, store: Path, workspace: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "FOVEA_MODEL_STORE": str(store), "FOVEA_WORKSPACE": str(workspace)}
    with (job.path / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "app.training", str(job.path)], env=environment, stdout=log, stderr=log
        )


def _fork(
    job: JobFolder, store: Path, workspace: Path, *, file_size: int | None = None, killed_in: str | None = None
) -> Forked:
    """The same, sooner: it has TensorFlow at hand."""
    environment = {"FOVEA_MODEL_STORE": str(store), "FOVEA_WORKSPACE": str(workspace)}
    return Forked(
        "tests.training.killed" if killed_in else "app.training.__main__",
        [killed_in, str(job.path)] if killed_in else [str(job.path)],
        log=job.path / "log.txt",
        environment=environment,
        file_size=file_size,
    )


def _wait_for_epoch(job: JobFolder, number: int) -> None:
    deadline = time.monotonic() + 120
    while not any((line.epoch or 0) >= number for line in job.progress()):
        assert time.monotonic() < deadline, (job.path / "log.txt").read_text()
        time.sleep(0.01)


def test_digits_by_default_survives_kill_9_and_ends_above_98_percent(
    submit: Any, workspace: Path, tmp_path: Path
) -> None:
    """`{"dataset": "digits"}` alone, killed on its way and started again, goes on where it was and does well."""
    store = tmp_path / "store"
    job = submit(dataset="digits")
    trainer = _start(job, store, workspace)
    _wait_for_epoch(job, 3)
    # While one trainer lives, another leaves the job alone.
    assert _start(job, store, workspace).wait(60) == 3
    trainer.kill()
    trainer.wait()
    assert job.state().state == "running"
    assert not job.alive

    assert _start(job, store, workspace).wait(240) == 0
    state, result = job.state(), job.result()
    assert (state.state, state.attempt) == ("succeeded", 2)
    assert result is not None
    assert result.metrics["accuracy"] >= 0.98
    assert not result.promoted
    epochs = [line.epoch for line in job.progress() if line.epoch]
    assert epochs == list(range(1, len(epochs) + 1))
    log = (job.path / "log.txt").read_text()
    assert "resuming after epoch" in log
    Registry(store).verify("digits", result.version)
    # A job that is done is done: starting it again changes nothing.
    assert _start(job, store, workspace).wait(60) == 0
    assert Registry(store).versions("digits") == [result.version]


def test_killed_in_every_phase_a_job_still_makes_one_version(submit: Any, workspace: Path, tmp_path: Path) -> None:
    """`kill -9` while evaluating, exporting, registering and promoting: one version in the end, promoted once.

    What the last attempt is warned of by the data stands in the result, as in the report that an earlier one wrote.
    """
    store = tmp_path / "store"
    files = {f"{label}/{shade}.png": picture(shade) for label, shades in _FEW.items() for shade in shades}
    Datasets(workspace / "datasets").add("shades", make_zip(tmp_path / "shades.zip", files))
    spec = {"epochs": 1, "batch_size": 16, "promotion": "always", "precisions": [], "near_duplicates": "ignore"}
    job = submit(dataset="shades", architecture={"name": "simple_cnn"}, **spec)
    for phase in ("evaluate", "export", "register", "promote"):
        assert _fork(job, store, workspace, killed_in=phase).wait(120) == -signal.SIGKILL
    assert _fork(job, store, workspace).wait(120) == 0
    assert job.state().state == "succeeded"
    registry = Registry(store)
    assert registry.versions("shades") == [1]
    assert [entry.version for entry in registry.promotions("shades")] == [1]
    registry.verify("shades", 1)
    warning = "No image of 'dark' is left to validate on."
    assert ("dataset", warning) in [(line.phase, line.message) for line in job.progress()]
    result = job.result()
    assert result is not None
    assert result.warnings == [warning]
    report = json.loads((registry.folder("shades", 1) / "evaluation" / "report.json").read_text())
    assert {"level": "warning", "text": warning} in report["findings"]


def test_a_running_job_can_be_cancelled(submit: Any, workspace: Path, tmp_path: Path) -> None:
    """The marker ends a running job within seconds, as cancelled, with nothing registered."""
    job = submit(dataset="shapes", epochs=10_000, early_stopping=None)
    trainer = _fork(job, tmp_path / "store", workspace)
    _wait_for_epoch(job, 1)
    job.request_cancel()
    assert trainer.wait(30) == 4
    assert job.state().state == "cancelled"
    assert Registry(tmp_path / "store").models() == []
    assert not (job.path / "checkpoint").exists()


def test_a_job_that_cannot_work_fails_with_the_reason(submit: Any, workspace: Path, tmp_path: Path) -> None:
    """A job on a dataset that is gone is failed, and says so."""
    job = submit(dataset="gone")
    assert _fork(job, tmp_path / "store", workspace).wait(120) == 1
    assert job.state().state == "failed"
    assert "There is no dataset 'gone'" in (job.state().reason or "")


def test_a_full_disk_fails_the_job_and_leaves_no_debris(submit: Any, workspace: Path, tmp_path: Path) -> None:
    """When the store cannot be written to, the job says why; no half version stays behind."""
    job = submit(dataset="shapes", shapes={"images": 30}, epochs=1, batch_size=8, precisions=[])
    store = tmp_path / "store"
    store.mkdir()
    # A limit on file size stands for the full disk: every write beyond it is refused by the kernel.
    assert _fork(job, store, workspace, file_size=2**20).wait(200) == 1
    assert job.state().state == "failed"
    assert "Free some space" in (job.state().reason or "")
    assert Registry(store).models() == []
    assert [path for path in store.rglob("*") if path.is_file() and path.name != "lock"] == []


def test_a_full_disk_in_the_middle_of_training_fails_the_job_with_advice(
    submit: Any, workspace: Path, tmp_path: Path
) -> None:
    """When a checkpoint cannot be written the job says why, and nothing of it stays behind, whole or half."""
    job = submit(dataset="shapes", shapes={"images": 30}, epochs=3, batch_size=8)
    # Enough for the job's own notes, too little for a checkpoint.
    assert _fork(job, tmp_path / "store", workspace, file_size=64 * 2**10).wait(200) == 1
    state = job.state()
    assert state.state == "failed"
    assert "Free some space" in (state.reason or "")
    assert sorted(path.name for path in job.path.iterdir()) == [
        "lock",
        "log.txt",
        "progress.jsonl",
        "spec.json",
        "state.json",
    ]


@pytest.mark.parametrize("error", [MemoryError(), OSError(errno.ENOMEM, "Cannot allocate memory")])
def test_a_job_without_memory_fails_with_advice(submit: Any, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Where the system gives no more memory the job says what it held, what is there, and what to make smaller."""

    def train(*_: Any) -> None:
        raise error

    monkeypatch.setattr(trainer, "_train", train)
    job = submit(dataset="shapes", batch_size=128)
    assert trainer.main([str(job.path)]) == 1
    assert job.state().state == "failed"
    reason = job.state().reason or ""
    assert reason.startswith("Out of memory: the trainer held up to ")
    assert "use a smaller batch_size (it is 128), smaller images or fewer filters" in reason


def test_sigterm_leaves_a_job_that_can_be_resumed(submit: Any, workspace: Path, tmp_path: Path) -> None:
    """A trainer that is told to go leaves the job as running and unlocked: the next attempt resumes it."""
    job = submit(dataset="shapes", epochs=10_000, early_stopping=None)
    trainer = _fork(job, tmp_path / "store", workspace)
    _wait_for_epoch(job, 1)
    trainer.terminate()
    assert trainer.wait(30) != 0
    assert job.state().state == "running"
    assert not job.alive
