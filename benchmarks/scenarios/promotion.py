"""Versions change under 70 % of the load that can be answered: nobody notices, and the memory comes back."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import httpx

from benchmarks.outcomes import Phase
from benchmarks.scenarios.driving import Client, Trial, proportional_megabytes
from benchmarks.workloads import Workload, import_photo, train_shapes

_SHARE = 0.7
_PROMOTIONS = 4


def promotion(trial: Trial) -> dict[str, Any]:
    store = _store(trial.workload)
    with trial.running({"FOVEA_MODEL_STORE": str(store)}) as subject, httpx.Client(timeout=60) as http:
        rate = trial.capacity(subject).rate * _SHARE
        steady, pause = trial.seconds(15), trial.seconds(5)
        memory = proportional_megabytes(subject)
        client = Client(subject, [Phase(rate, steady), Phase(rate, pause * _PROMOTIONS)])
        time.sleep(steady)
        took = []
        for number in range(_PROMOTIONS):
            begun = time.perf_counter()
            response = http.post(
                f"{subject.url}/api/v1/models/{trial.workload.name}/promote",
                json={"version": 2 - number % 2, "reason": "benchmark"},
            )
            response.raise_for_status()
            took.append(time.perf_counter() - begun)
            time.sleep(max(0.0, pause - took[-1]))
        result = client.result()
        before, during = result.phases
        time.sleep(trial.seconds(5))
        return {
            "sent, /s": rate,
            "promotions": _PROMOTIONS,
            "a promotion takes, s": max(took),
            "failed or rejected": sum(phase.failed + phase.rejected.count for phase in result.phases),
            "p99 steady, ms": before.accepted.p99 * 1000,
            "p99 with promotions, ms": during.accepted.p99 * 1000,
            "ratio": during.accepted.p99 / before.accepted.p99 if before.accepted.p99 else 0.0,
            "slowest with promotions, ms": during.accepted.max * 1000,
            "memory before, MB": memory,
            "memory after, MB": proportional_megabytes(subject),
        }


def _store(workload: Workload) -> Path:
    """A store of the workload's model with a second version, and the first in production."""
    kept = workload.folder / "second" / "store"
    if not (kept / workload.name / "2").is_dir():
        shutil.rmtree(kept.parent, ignore_errors=True)
        shutil.copytree(workload.store, kept)
        if workload.name == "tiny":
            train_shapes(kept, kept.parent / "workspace", workload.name, seed=1, promotion="manual")
        else:
            import_photo(workload, kept, promote=False)
    # Promotions are for ever; each run has a copy of its own.
    store = workload.folder / "promotion" / "store"
    shutil.rmtree(store, ignore_errors=True)
    shutil.copytree(kept, store)
    return store
