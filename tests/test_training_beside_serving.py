"""While a job trains, the server goes on answering: a real server, and a real trainer beside it."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from app.jobs.jobs import Jobs
from app.store.registry import Registry
from tests.server import Server, running, wait_for
from tests.serving.versions import add_version, gray

THREADS = 3  # neither the default of any machine of ours nor one that would slow down the other tests
SPEC = {
    "dataset": "shapes",
    "model": "lines",
    "shapes": {"images": 90},
    "architecture": {"name": "simple_cnn", "filters": [8], "dense_units": 8},
    "epochs": 10_000,
    "batch_size": 16,
    "early_stopping": None,
}


def _answers(server: Server) -> set[tuple[str, int]]:
    """Statuses of what clients and orchestrators ask while a job trains."""
    return {
        ("predict", server.client.post("/api/v1/predict?model=shapes", content=gray(0)).status_code),
        *((path, server.client.get(path).status_code) for path in ("/health/live", "/health/ready", "/metrics")),
    }


def _rank(thread: int) -> list[tuple[int, int]]:
    """Scheduling class and nice value of a thread; empty if it has ended."""
    with suppress(ProcessLookupError):
        return [(os.sched_getscheduler(thread), os.getpriority(os.PRIO_PROCESS, thread))]
    return []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_server_answers_while_a_job_trains_behind_everything_else(tmp_path: Path) -> None:
    """Predictions and health are answered during a training, all of whose threads yield to whoever wants the processor.

    How many threads compute is what FOVEA_TRAINING_THREADS says.
    """
    add_version(Registry(tmp_path / "store"), promote=True)
    jobs = Jobs(tmp_path / "workspace" / "jobs")
    with running(tmp_path, executor="local", training_threads=THREADS) as server:
        location = server.client.post("/api/v1/training-jobs", json=SPEC).headers["Location"]
        job = jobs.get(location.rpartition("/")[2])
        try:
            wait_for(lambda: jobs.document(job.id).epoch, seconds=120, what="the first epoch")
            begun = jobs.document(job.id).epoch or 0
            seen = set[tuple[str, int]]()
            for _ in range(20):
                seen |= _answers(server)
            # They were answered in the middle of it, and the training goes on.
            wait_for(lambda: (jobs.document(job.id).epoch or 0) > begun, seconds=60, what="another epoch")
            while_training = job.state().state
            assert seen == {("predict", 200), ("/health/live", 200), ("/health/ready", 200), ("/metrics", 200)}
            assert while_training == "running"

            trainer = job.holder
            assert trainer is not None
            threads = [int(thread.name) for thread in Path(f"/proc/{trainer}/task").iterdir()]
            assert len(threads) > THREADS
            assert set(chain.from_iterable(map(_rank, threads))) == {(os.SCHED_IDLE, 19)}
            assert _rank(server.process.pid) == _rank(os.getpid())
            variables = Path(f"/proc/{trainer}/environ").read_bytes().split(b"\0")
            assert f"FOVEA_TRAINING_THREADS={THREADS}".encode() in variables
            assert f" {THREADS} threads" in jobs.log(job.id)
        finally:
            server.client.post(f"{location}/cancel")
        wait_for(lambda: job.state().state == "cancelled", seconds=60, what="the cancellation")
    assert Registry(tmp_path / "store").models() == ["shapes"]
