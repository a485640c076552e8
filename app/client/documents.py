"""What the server says of models, datasets and training jobs.

The fields are those that programs use; all others that a server sends are kept too, and reached by their names.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from app.client.answers import OPEN


class VersionSummary(BaseModel):
    """A version in a list."""

    model_config = OPEN

    version: int
    created_at: datetime | None = None
    created_by: str | None = None
    metrics: dict[str, float] = {}
    """Measured on the held-out test split: `accuracy` and others."""
    problem: str | None = None
    """Why its manifest cannot be read; None normally."""


class Model(BaseModel):
    """A model as the server serves it."""

    model_config = OPEN

    name: str
    versions: tuple[int, ...]
    """All of them, ascending."""
    production: int | None = None
    """The version that is to answer."""
    serving: int | None = None
    """The version that answers now."""
    state: str
    """`ready`, `degraded`, `loading`, `unavailable` or `unpromoted`."""
    ready: bool
    """Whether it answers."""
    reason: str | None = None
    """Why the state is not `ready`."""
    details: tuple[VersionSummary, ...] = ()
    """The versions, the newest first; empty in lists."""


class Version(BaseModel):
    """A version: its manifest, and how it did on the held-out test split."""

    model_config = OPEN

    model: str
    version: int
    production: bool
    serving: bool
    manifest: dict[str, Any]
    evaluation: dict[str, Any] | None = None
    links: dict[str, str] = {}
    """Address of each file of the evaluation, relative to the server's."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, in the order of the output."""
        return tuple(self.manifest["labels"])

    @property
    def metrics(self) -> dict[str, float]:
        """Measured on the held-out test split."""
        return dict(self.manifest.get("metrics", {}))


class Promotion(BaseModel):
    """An entry of a model's promotion log."""

    model_config = OPEN

    sequence: int
    version: int
    at: datetime
    by: str
    reason: str = ""
    action: str = "promote"


class DatasetSummary(BaseModel):
    """A dataset in a list."""

    model_config = OPEN

    name: str
    description: str = ""
    builtin: bool = False
    created_at: datetime | None = None
    images: int | None = None
    class_count: int | None = None
    problem: str | None = None
    """Why its report cannot be read; None normally."""


class Rejected(BaseModel):
    """A file that is not in the dataset, and why."""

    model_config = OPEN

    name: str
    reason: str


class Dataset(BaseModel):
    """What is in a dataset, what was left out, and what is odd about it."""

    model_config = OPEN

    name: str
    description: str = ""
    builtin: bool = False
    created_at: datetime | None = None
    images: int
    """Usable ones."""
    classes: dict[str, int]
    """Usable images of each class."""
    rejected_files: int = 0
    rejected: tuple[Rejected, ...] = ()
    warnings: tuple[str, ...] = ()
    """What should be looked at before training."""


class Progress(BaseModel):
    """A line of a training job's progress: an epoch, a checkpoint, or the begin of a phase."""

    model_config = OPEN

    at: datetime
    attempt: int
    phase: str
    message: str = ""
    epoch: int | None = None
    """Epochs finished; set on the lines of epochs."""
    epochs: int | None = None
    loss: float | None = None
    accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    remaining_seconds: float | None = None


class JobResult(BaseModel):
    """What came of a training job that succeeded."""

    model_config = OPEN

    model: str
    version: int
    metrics: dict[str, float]
    promoted: bool
    promotion_reason: str = ""


State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class JobState(BaseModel):
    """A training job without its epochs and its spec, as events and lists have it."""

    model_config = OPEN

    id: str
    state: State
    attempt: int = 0
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = None
    """Why it failed or was cancelled."""
    phase: str | None = None
    message: str | None = None
    epoch: int | None = None
    """Epochs finished."""
    epochs: int | None = None
    remaining_seconds: float | None = None
    result: JobResult | None = None
    """Set once it succeeded."""

    @property
    def final(self) -> bool:
        """Whether nothing about the job will change any more."""
        return self.state in ("succeeded", "failed", "cancelled")


class Job(JobState):
    """A training job: what was asked for, how far it is, and what came of it."""

    spec: dict[str, Any] = {}
    history: tuple[Progress, ...] = ()
    """One entry an epoch, in order; empty in lists."""
