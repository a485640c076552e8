"""What is told of training jobs."""

from __future__ import annotations

import signal
import subprocess
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from app.jobs.folder import JobFolder, JobState
from app.store.registry import Registry
from benchmarks import machine
from benchmarks.trainings import jobs, memory, tables
from benchmarks.trainings.results import Memory, Results, Run, Speed


def _run(title: str, curve: list[tuple[float, float]]) -> Run:
    return Run(
        title=title,
        dataset="cats",
        network="resnet_small",
        images=1000,
        tested=200,
        epochs=len(curve),
        to_first_step=4.5,
        fitting=curve[-1][0],
        seconds=curve[-1][0] + 20,
        accuracy=0.91,
        low=0.86,
        high=0.94,
        peak_bytes=700_000_000,
        curve=curve,
        note="beside other work",
    )


def _results() -> Results:
    return Results(began=datetime(2026, 1, 2, tzinfo=UTC), machine=machine.describe())


def test_what_outlives_a_measurement_is_ended_with_its_control_group(tmp_path: Path) -> None:
    """And a group that stays all the same hides no failure. Here a folder stands for it."""
    with subprocess.Popen(["sleep", "600"]) as process:
        group = tmp_path / "group"
        group.mkdir()
        procs = group / "cgroup.procs"
        procs.write_text(f"{process.pid}\n")
        thread = threading.Thread(target=lambda: (process.wait(), procs.write_text("")))
        thread.start()
        memory.end(group)
        thread.join()
        assert process.returncode == -signal.SIGKILL
    memory.end(tmp_path / "none")


def test_the_table_tells_of_jobs_speeds_and_memory(tmp_path: Path) -> None:
    """With the curves as a picture, and the best accuracy until each minute."""
    results = _results()
    results.runs["dataset"] = _run("the recipe", [(50.0, 0.5), (110.0, 0.4), (170.0, 0.8)])
    results.runs["classic"] = _run("the classic network", [(100.0, 0.3)])
    results.speeds["resnet_small"] = Speed(
        network="resnet_small", fovea=[100, 220, 120], keras=[100, 200, 100], keras_augmented=[50, 100, 50]
    )
    results.memory = Memory(limit=10**9, decoded=10**10, peak=9 * 10**8, seconds=60)
    text = tables.markdown(results, tmp_path)
    assert "| cats: the recipe | resnet_small | 1,000 | 3 | 91.00% | 86.00% to 94.00% of 200 | 4.50 |" in text
    assert "| 1 | 50.00% | – |" in text
    assert "| 2 | 50.00% | 30.00% |" in text
    assert "| 2.83 | 80.00% | 30.00% |" in text
    assert "| 1.10 | 2.20 |" in text
    assert "take 10,000 MB when decoded" in text
    assert "- cats: the recipe: beside other work" in text
    assert "the classic network" in (tmp_path / "training-curves.svg").read_text()


def test_what_was_measured_before_stays(tmp_path: Path) -> None:
    """A part that is measured again takes the place of the last one only."""
    file = tmp_path / "training.json"
    results = _results()
    results.runs["dataset"] = _run("the recipe", [(50.0, 0.5)])
    results.save(file)
    again = Results.load(file, datetime.now(UTC), machine.describe())
    again.runs["classic"] = _run("the classic network", [(50.0, 0.4)])
    again.save(file)
    assert sorted(Results.load(file, datetime.now(UTC), machine.describe()).runs) == ["classic", "dataset"]


def test_a_job_that_did_not_succeed_is_no_result(tmp_path: Path) -> None:
    """Nothing is entered for it, and it is said why."""
    folder = tmp_path / "job"
    folder.mkdir()
    job = JobFolder(folder)
    job.write_state(JobState(state="failed", submitted_at=datetime.now(UTC), reason="the disk is full"))
    with pytest.raises(jobs.JobFailed, match="the disk is full"):
        jobs.finished("the recipe", job, Registry(tmp_path / "models"))
