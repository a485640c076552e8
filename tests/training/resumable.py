"""A run that is ended by `kill -9` in the middle of its steps. A program.

Arguments: the job's folder, the workspace, the file for the result (history and weights), and the step, counted over
all epochs, at whose loading the process kills itself; -1: it never does.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict
from pathlib import Path

import numpy as np

from app.jobs.folder import JobFolder
from app.store.datasets import Datasets
from app.training import batches
from app.training.dataset import prepare
from app.training.fit import fit
from app.training.reporter import Reporter
from app.training.run import Run


class _Deadly(batches.Batches):
    kill_at = -1

    def _load(self, order: np.ndarray, first: int) -> batches.Chunk:
        chunk = super()._load(order, first)
        if first <= self.kill_at - self.steps * (self._epoch - 1) < first + chunk.steps:
            os.kill(os.getpid(), signal.SIGKILL)
        return chunk

    def order(self, epoch: int) -> np.ndarray:
        self._epoch = epoch
        return super().order(epoch)


def main(arguments: list[str]) -> int:
    folder, workspace, result, kill_at = arguments
    job = JobFolder(Path(folder))
    reporter = Reporter(job, attempt=1)
    data = prepare(job.spec(), Datasets(Path(workspace) / "datasets"), reporter)
    _Deadly.kill_at = int(kill_at)
    fit.__globals__["Batches"] = _Deadly
    # Short chunks, and a checkpoint after each: there are many places to be killed at, writing a checkpoint among them.
    batches._SECONDS = 0.03
    Run._due = lambda _: True  # type: ignore[method-assign,assignment]
    fitted = fit(job.spec(), data, job.path / "checkpoint", reporter)
    history = [{**asdict(epoch), "seconds": 0} for epoch in fitted.history]
    weights = {f"{number:03d}": np.asarray(weight) for number, weight in enumerate(fitted.model.weights)}
    np.savez(result, allow_pickle=False, history=json.dumps(history), **weights)
    return 0
