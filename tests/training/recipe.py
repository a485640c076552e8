"""Recipes for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.jobs.spec import TrainingSpec
from app.preprocessing import Preprocessing
from app.training.recipes import Recipe, choose


def recipe(
    *,
    images: int = 1000,
    labels: Sequence[str] = ("cat", "dog"),
    side: int = 32,
    color: Any = "rgb",
    bf16: bool = False,
    **fields: Any,
) -> Recipe:
    """What is chosen for a spec with `fields` and such a dataset."""
    spec = TrainingSpec.model_validate({"dataset": "pets", **fields})
    preprocessing = Preprocessing(height=side, width=side, color=color)
    return choose(spec, images=images, total=images, labels=labels, preprocessing=preprocessing, bf16=bf16)
