"""Mixup: training on points between two images (H. Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2017)."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from app.training.draw import Draw

Tensor = Any


def mix_up(images: Tensor, labels: Tensor, alpha: float, draw: Draw) -> tuple[Tensor, Tensor]:
    """Mix each image and label with those of its neighbour in the (shuffled) batch.

    Args:
        images: float32 [n, height, width, channels].
        labels: float32 [n, classes].
        alpha: the share of the one comes from Beta(alpha, alpha): mostly near 0 or 1 if small.
        draw: random numbers for the batch.
    """
    share = draw.beta(alpha)
    mixed = _blend(images, share[:, None, None, None])
    return mixed, _blend(labels, share[:, None])


def _blend(values: Tensor, share: Tensor) -> Tensor:
    return values * share + tf.roll(values, 1, axis=0) * (1 - share)
