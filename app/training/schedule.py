"""Learning rates over the steps of training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import keras
from keras import ops

Tensor = Any

# Where a warm-up begins, as a share of the peak.
_FIRST = 0.01


@dataclass(frozen=True)
class Course:
    """How the learning rate goes: a linear rise in `warmup` steps, then `kind` until step `total`.

    `drop_every`: steps between two falls under `step`, counted from the first step on.
    """

    kind: Literal["constant", "step", "exponential", "cosine"]
    peak: float
    total: int
    warmup: int
    decay: float
    drop_every: int


class LearningRate(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """The learning rate at each step, as a `Course` says."""

    def __init__(self, course: Course) -> None:
        self._course = course

    def __call__(self, step: Tensor) -> Tensor:
        course = self._course
        step = ops.cast(step, "float32")
        peak = ops.cast(course.peak, "float32")
        # Both are computed at every step: neither may divide by zero.
        rising = peak * (_FIRST + (1 - _FIRST) * step / max(1, course.warmup))
        done = ops.clip((step - course.warmup) / max(1, course.total - course.warmup), 0.0, 1.0)
        match course.kind:
            case "constant":
                factor: Tensor = ops.ones_like(step)
            case "step":
                factor = ops.power(course.decay, ops.floor(step / course.drop_every))
            case "exponential":
                factor = ops.power(course.decay, done)
            case "cosine":
                factor = 0.5 * (1 + ops.cos(math.pi * done))
        return ops.where(step < course.warmup, rising, peak * factor)

    def get_config(self) -> dict[str, Any]:
        return {"course": self._course}
