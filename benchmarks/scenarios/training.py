"""A training job runs beside the server: what it costs those who ask."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx

from app.cores import available_cores
from benchmarks.outcomes import Phase
from benchmarks.processes import cpu_seconds_of
from benchmarks.running import Running
from benchmarks.scenarios.driving import Client, Trial

_SHARE = 0.7
_START_SECONDS = 120.0
_JOB = {"dataset": "shapes", "model": "trained", "shapes": {"images": 30_000}, "epochs": 1000, "promotion": "manual"}


def training(trial: Trial) -> dict[str, Any]:
    workspace = trial.workload.folder / "training"
    shutil.rmtree(workspace, ignore_errors=True)
    environment = {"FOVEA_EXECUTOR": "local", "FOVEA_WORKSPACE": str(workspace)}
    with trial.running(environment) as subject, httpx.Client(base_url=subject.url, timeout=60) as http:
        alone = trial.capacity(subject).rate
        rate = alone * _SHARE
        seconds = trial.seconds(20)
        before = Client(subject, [Phase(rate, seconds)]).result().phases[0]
        job = http.post("/api/v1/training-jobs", json=_JOB).raise_for_status().json()["id"]
        try:
            trainer = _trainer(subject, http, job)
            used, begun = cpu_seconds_of(trainer), time.perf_counter()
            during = Client(subject, [Phase(rate, seconds)]).result().phases[0]
            open_share = (cpu_seconds_of(trainer) - used) / (time.perf_counter() - begun)
            used, begun = cpu_seconds_of(trainer), time.perf_counter()
            beside = trial.capacity(subject).rate
            closed_share = (cpu_seconds_of(trainer) - used) / (time.perf_counter() - begun)
        finally:
            http.post(f"/api/v1/training-jobs/{job}/cancel")
        return {
            "sent, /s": rate,
            "p99 alone, ms": before.accepted.p99 * 1000,
            "p99 while training, ms": during.accepted.p99 * 1000,
            "ratio": during.accepted.p99 / before.accepted.p99 if before.accepted.p99 else 0.0,
            "failed or rejected": before.failed + before.rejected.count + during.failed + during.rejected.count,
            "cores that the trainer took meanwhile": open_share,
            "capacity alone, /s": alone,
            "capacity while training, /s": beside,
            "capacity lost": 1 - beside / alone,
            "share of the cores that the trainer took meanwhile": closed_share / available_cores(),
        }


def _trainer(subject: Running, http: httpx.Client, job: str) -> int:
    """Wait until the job has trained an epoch; the id of its process."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        document = http.get(f"/api/v1/training-jobs/{job}").raise_for_status().json()
        if document["state"] not in ("queued", "running"):
            raise RuntimeError(f"the training job {document['state']}: {document.get('reason')}")
        if document.get("epochs"):
            for process in subject.tree.processes():
                command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
                if b"app.training" in command:
                    return process
        time.sleep(0.2)
    raise RuntimeError(f"the training job did not begin within {_START_SECONDS:g} s")
