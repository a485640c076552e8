"""What the routes of models take and give, where the rooms below have no type of their own for it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.asked import Asked
from app.serving.status import ModelState
from app.serving.tuning import Tuning
from app.store.dataset_report import DatasetSummary
from app.store.manifest import Manifest, Precision, Promotion, Refusal


class VersionSummary(BaseModel):
    """A version in a list."""

    version: int
    created_at: datetime | None = None
    created_by: str | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="Measured on the held-out test split.")
    problem: str | None = Field(None, description="Why the manifest cannot be read; unset normally.")


class EngineTuning(BaseModel):
    """How a version runs on this processor: measured on its golden examples when it was first loaded here."""

    engine: str = Field(description="Engine and precision, the fastest of `candidates`: `openvino-f32`.")
    precision: Precision = Field(description="What it computes in.")
    batch: int = Field(description="Images in a call with which it is fastest.")
    images_per_second: float = Field(description="With calls of that size, one at a time; without decoding.")
    seconds_alone: float = Field(description="Seconds of inference for one image when nothing else runs.")
    candidates: dict[str, float] = Field(description="Images a second that each engine gave.")

    @classmethod
    def of(cls, tuning: Tuning | None) -> EngineTuning | None:
        """None where nothing answers, or nothing was timed."""
        if tuning is None or not tuning.candidates:
            return None
        return cls(
            engine=tuning.engine,
            precision=tuning.precision,
            batch=tuning.best_batch,
            images_per_second=round(1 / tuning.seconds_per_image, 1),
            seconds_alone=round(tuning.lone_seconds, 6),
            candidates={name: round(rate, 1) for name, rate in tuning.candidates.items()},
        )


class ModelSummary(BaseModel):
    """A model as this process serves it."""

    name: str
    versions: list[int] = Field(description="All versions in the store, ascending.")
    production: int | None = Field(description="The version that the promotion log names.")
    serving: int | None = Field(description="The version that answers now.")
    runtime: str | None = Field(description="Engine and precision that run it: `openvino-f32`.")
    tuning: EngineTuning | None = Field(description="How fast that is; unset where nothing was timed.")
    state: ModelState
    ready: bool = Field(description="Whether requests for it are answered.")
    reason: str | None = Field(description="Why the state is not `ready`, and what to do.")
    warnings: list[str] = []


class ModelList(BaseModel):
    """All models of the store, by name."""

    models: list[ModelSummary]


class ModelDocument(ModelSummary):
    """A model with what is known of each version."""

    details: list[VersionSummary] = Field(description="The versions, the newest first.")


class VersionDocument(BaseModel):
    """A version: its manifest, and how it did on the held-out test split."""

    model: str
    version: int
    production: bool = Field(description="Whether it is the production version.")
    serving: bool = Field(description="Whether it answers requests that name no version.")
    tuning: EngineTuning | None = Field(None, description="How fast it is; unset where it is not `serving`.")
    manifest: Manifest
    evaluation: dict[str, Any] | None = Field(description="The evaluation's report.json; unset if there is none.")
    links: dict[str, str] = Field(description="Address of each file of the evaluation, by name.")


class PromotionEntry(Promotion):
    """An entry of a model's promotion log."""

    model: str


class PromotionList(BaseModel):
    """A model's promotion log, the oldest entry first; the last one says which version is production."""

    model: str
    promotions: list[Promotion]
    refusals: list[Refusal] = Field(
        default_factory=list, description="Versions that `if_better` did not let through, the oldest first."
    )


class PromoteRequest(Asked):
    """Which version shall be production."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"version": 2, "reason": "Two points better on the test split."}]}
    )

    version: int = Field(ge=1, le=999_999_999, description="A version that exists.")
    reason: str = Field("", max_length=1000, description="Why, for the log.")


class RollbackRequest(Asked):
    """Nothing is required."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"reason": "Cats are called dogs."}]})

    reason: str = Field("", max_length=1000, description="Why, for the log.")


class DatasetList(BaseModel):
    """All datasets: the uploaded ones by name, then the built-in ones."""

    datasets: list[DatasetSummary]
