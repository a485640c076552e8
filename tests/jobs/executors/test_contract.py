"""What every executor must do, over all of them."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from app.jobs.executors.base import Executor
from app.jobs.executors.fake import Fake
from app.jobs.jobs import Jobs
from tests.jobs.conftest import SPEC, local_process, supervise, wait_for, wait_until
from tests.jobs.executors.conftest import MakeRay
from tests.jobs.executors.ray_cluster import RayCluster

# Makes an executor whose jobs have `epochs` epochs of `seconds`.
Make = Callable[[int, float], Executor]


def _fake(epochs: int, seconds: float) -> Executor:
    return Fake(epochs=epochs, seconds=seconds)


def _local(epochs: int, seconds: float) -> Executor:
    return local_process(epochs=str(epochs), seconds=str(seconds))


# Wider than a test, so that those of one executor come together, and Ray's last: it comes up while the others run.
@pytest.fixture(scope="module", params=["fake", "local_process", "ray_job"])
def make(request: pytest.FixtureRequest, starting_cluster: RayCluster | None) -> Make:
    if request.param == "ray_job":
        make_ray: MakeRay = request.getfixturevalue("make_ray")
        return lambda epochs, seconds: make_ray(epochs=str(epochs), seconds=str(seconds))
    return _fake if request.param == "fake" else _local


def test_submitted_job_succeeds(jobs: Jobs, make: Make) -> None:
    """A job that is queued is run to its end: states, times, progress and result are there."""
    job = jobs.submit(SPEC)
    with supervise(jobs, make(2, 0)):
        wait_for(job, "succeeded")
    document = jobs.document(job.id)
    assert document.attempt == 1
    assert document.started_at is not None
    assert document.finished_at is not None
    assert document.submitted_at <= document.started_at <= document.finished_at
    assert [line.epoch for line in document.history] == [1, 2]
    assert document.result is not None
    assert document.result.model == "digits"


def test_jobs_run_one_at_a_time_the_oldest_first(jobs: Jobs, make: Make) -> None:
    """With two jobs in the queue the second begins when the first has ended."""
    queue = [jobs.submit(SPEC) for _ in range(2)]
    with supervise(jobs, make(1, 0)):
        wait_for(queue[-1], "succeeded")
    documents = [jobs.document(job.id) for job in queue]
    for earlier, later in pairwise(documents):
        assert earlier.finished_at is not None
        assert later.started_at is not None
        assert earlier.finished_at <= later.started_at


def test_running_job_is_cancelled(jobs: Jobs, make: Make) -> None:
    """A job at work ends as cancelled when asked to, and the next in the queue gets its turn."""
    job = jobs.submit(SPEC)
    following = jobs.submit(SPEC)
    with supervise(jobs, make(10_000, 0.05)):
        wait_until(lambda: jobs.document(job.id).epoch is not None, "a first epoch")
        jobs.cancel(job.id)
        wait_for(job, "cancelled")
        wait_for(following, "running")
        jobs.cancel(following.id)
        wait_for(following, "cancelled")
    assert job.state().finished_at is not None
    assert job.state().reason


def test_cancelled_queued_job_never_runs(jobs: Jobs, make: Make) -> None:
    """A job that was cancelled in the queue is passed over."""
    cancelled = jobs.submit(SPEC)
    job = jobs.submit(SPEC)
    jobs.cancel(cancelled.id)
    with supervise(jobs, make(1, 0)):
        wait_for(job, "succeeded")
    assert cancelled.state().state == "cancelled"
    assert cancelled.state().attempt == 0


def test_ended_trainer_leaves_its_job_unfinished(jobs: Jobs, make: Make) -> None:
    """`end` ends the trainer at work; the executor tells how, once; the job's state is left for others to settle."""
    executor = make(10_000, 0.05)
    job = jobs.submit(SPEC)
    assert not executor.alive(job)
    executor.launch(job)
    wait_for(job, "running")
    assert executor.alive(job)
    assert executor.collect(job) is None
    executor.end(job, force=True)
    wait_until(lambda: not executor.alive(job), "the trainer to end")
    assert executor.collect(job) is not None
    assert executor.collect(job) is None
    assert job.state().state == "running"


def test_ending_a_job_that_nobody_runs_does_nothing(jobs: Jobs, make: Make) -> None:
    """To end what does not run is no error."""
    job = jobs.submit(SPEC)
    make(1, 0).end(job, force=True)
    assert job.state().state == "queued"
