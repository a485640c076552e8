"""Small data and jobs for the tests of the trainer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from app.jobs.folder import JobFolder
from app.jobs.jobs import Jobs
from app.jobs.spec import TrainingSpec
from app.store.datasets import Datasets
from app.training.dataset import TrainingData, prepare
from app.training.reporter import Reporter

PreparedJob = tuple[TrainingSpec, TrainingData, Reporter, JobFolder]


def prepared_job(workspace: Path, **fields: object) -> PreparedJob:
    """Queue a tiny job on `shapes`, in f32 only, and prepare its data."""
    small = {"dataset": "shapes", "shapes": {"images": 90}, "batch_size": 16, "epochs": 2, "precisions": []}
    job = Jobs(workspace / "jobs").submit(TrainingSpec.model_validate({**small, **fields}))
    reporter = Reporter(job, attempt=1)
    return job.spec(), prepare(job.spec(), Datasets(workspace / "datasets"), reporter), reporter, job


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    return tmp_path / "workspace"


@pytest.fixture
def submit(workspace: Path):  # type: ignore[no-untyped-def]
    """Queue a job from fields of its spec."""

    def submit(**fields: object) -> JobFolder:
        return Jobs(workspace / "jobs").submit(TrainingSpec.model_validate(fields))

    return submit


@pytest.fixture
def shapes(workspace: Path):  # type: ignore[no-untyped-def]
    """A prepared, tiny `shapes` job: (spec, data, reporter, job)."""

    def shapes(**fields: object) -> PreparedJob:
        return prepared_job(workspace, **fields)

    return shapes


@pytest.fixture
def photos() -> np.ndarray:
    """Eight smooth random colour pictures, uint8 [8, 32, 32, 3]."""
    coarse = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    return coarse.repeat(4, axis=1).repeat(4, axis=2)
