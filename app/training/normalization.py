"""Scaling of pixel values, which every network begins with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.preprocessing import UInt8Array


@dataclass(frozen=True)
class Normalization:
    """Per-channel scaling, (value - mean) / deviation, of pixel values in [0, 255]."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def choose_normalization(
    kind: Literal["0..1", "-1..1", "standardize"], images: Iterable[UInt8Array], channels: int
) -> Normalization:
    """Scaling to [0, 1], to [-1, 1], or to mean 0 and deviation 1 over the training set.

    Args:
        kind: which of them.
        images: the training images in chunks, uint8 [n, height, width, channels]; read only to standardise.
        channels: of an image.
    """
    if kind == "0..1":
        return Normalization((0.0,) * channels, (255.0,) * channels)
    if kind == "-1..1":
        return Normalization((127.5,) * channels, (127.5,) * channels)
    # Sums over a histogram of the 256 levels: exact, and never more than a chunk in memory.
    levels = np.arange(256, dtype=np.float64)
    counts = np.zeros((channels, 256), np.int64)
    for chunk in images:
        for channel in range(channels):
            counts[channel] += np.bincount(chunk[..., channel].reshape(-1), minlength=256)
    means = [float(count @ levels / count.sum()) for count in counts]
    deviations = [
        float(np.sqrt(count @ (levels - mean) ** 2 / count.sum())) for count, mean in zip(counts, means, strict=True)
    ]
    # A constant channel carries nothing; dividing by a level keeps it finite.
    return Normalization(tuple(means), tuple(max(deviation, 1.0) for deviation in deviations))
