"""Learning rates over the steps of training."""

from __future__ import annotations

import math
from typing import Any

import pytest

from app.training.schedule import Course, LearningRate

COURSE: dict[str, Any] = {"peak": 0.2, "total": 100, "warmup": 0, "decay": 0.1, "drop_every": 30}


def _rate(step: int, **fields: Any) -> float:
    return float(LearningRate(Course(**{**COURSE, **fields}))(step))


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", lambda _: 0.2),
        ("step", lambda step: 0.2 * 0.1 ** (step // 30)),
        ("exponential", lambda step: 0.2 * 0.1 ** (step / 100)),
        ("cosine", lambda step: 0.1 * (1 + math.cos(math.pi * step / 100))),
    ],
)
def test_each_schedule_follows_its_formula(kind: str, expected: Any) -> None:
    """Constant, in steps, exponential over all of training, and along half a cosine."""
    for step in (0, 1, 29, 30, 59, 60, 99, 100):
        assert _rate(step, kind=kind) == pytest.approx(expected(step), rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("kind", ["constant", "step", "exponential", "cosine"])
def test_a_warm_up_rises_to_the_peak_under_each_schedule(kind: str) -> None:
    """From a hundredth of the peak, in a straight line, and the peak is reached when it ends."""
    assert _rate(0, kind=kind, warmup=20) == pytest.approx(0.002)
    assert _rate(10, kind=kind, warmup=20) == pytest.approx(0.002 + 0.099)
    assert _rate(20, kind=kind, warmup=20) == pytest.approx(0.2)


def test_what_falls_to_zero_or_by_a_factor_gets_there_after_a_warm_up_too() -> None:
    """The rest of the steps is enough: cosine ends at zero, exponential at `decay` of the peak, and both stay there."""
    for step in (100, 130):
        assert _rate(step, kind="cosine", warmup=20) == pytest.approx(0, abs=1e-8)
        assert _rate(step, kind="exponential", warmup=20) == pytest.approx(0.02)
