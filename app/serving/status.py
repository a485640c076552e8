"""What the service says about the models that it serves; for readiness, the API and the start banner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from app.serving.tuning import Tuning

ModelState = Literal["ready", "degraded", "loading", "unavailable", "unpromoted"]


@dataclass(frozen=True)
class ModelStatus:
    """One model of the store, as this process serves it."""

    model: str
    state: ModelState
    """`ready`: the production version answers. `degraded`: an earlier one answers, since the production version was
    refused. `loading`: nothing answers yet. `unavailable`: nothing can be loaded, or what answers gave numbers that
    are not finite. `unpromoted`: there are versions, but none is in production."""
    production: int | None
    """The version that the promotion log names."""
    serving: int | None
    """The version that answers when a request names none."""
    runtime: str | None
    """Engine and precision of `serving`: "openvino-f32"."""
    tuning: Tuning | None
    """How fast that is, and how fast the other engines were."""
    reason: str | None
    """Why the state is not `ready`, and what to do; for people."""
    warnings: tuple[str, ...] = ()
    """What was odd about `serving`, but no ground to refuse it."""


@dataclass(frozen=True)
class Status:
    """The whole service: `ready` if there is a model in production and every such model can be answered for."""

    ready: bool
    reason: str | None
    """Why it is not ready, and what to do; for people."""
    models: tuple[ModelStatus, ...]
    """All models of the store, by name."""
