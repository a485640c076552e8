"""What the tests of jobs share: a folder of jobs, quick supervisors, and waiting for a state."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from app.jobs.executors.base import Executor
from app.jobs.executors.local_process import LocalProcess
from app.jobs.folder import JobFolder
from app.jobs.jobs import Jobs
from app.jobs.spec import TrainingSpec
from app.jobs.supervisor import Supervisor

SPEC = TrainingSpec(dataset="digits")


def local_process(*, lowest_priority: bool = False, **stand_in: str) -> LocalProcess:
    """The real executor with the stand-in trainer, at normal priority so that a busy machine cannot starve it."""
    return LocalProcess(
        {f"STAND_IN_{name.upper()}": value for name, value in stand_in.items()},
        command=[sys.executable, "-m", "tests.jobs.stand_in_trainer"],
        lowest_priority=lowest_priority,
    )


def supervise(jobs: Jobs, executor: Executor, **options: float) -> AbstractContextManager[None]:
    """A supervisor at work for the length of a block, quicker than in earnest."""
    return Supervisor(
        jobs,
        executor,
        poll=0.02,
        grace=options.get("grace", 20.0),
        kill_grace=options.get("kill_grace", 0.2),
    ).running()


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 60) -> None:
    """Fail when `condition` does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for: {what}"
        time.sleep(0.02)


def wait_for(job: JobFolder, *states: str) -> None:
    """Fail when `job` does not come into one of `states` in time."""
    wait_until(lambda: job.state().state in states, f"job in {states}, which is {job.state()}")


def runs(jobs: Jobs) -> list[str]:
    """Ids of the jobs that the stand-in trainer took, in order, once a run."""
    path = jobs.root / "runs.txt"
    return path.read_text().split() if path.exists() else []


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path / "workspace" / "jobs")
