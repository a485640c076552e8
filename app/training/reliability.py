"""Whether probabilities mean what they say, and which answers are too unsure to be given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from app.preprocessing import Float32Array
from app.training.significance import Interval, wilson
from app.training.sources import Targets

BINS = 15

# An answer that is surer than this is given, whatever the others are like.
_SURE_ENOUGH = 0.9


@dataclass(frozen=True)
class Bin:
    """Images whose highest probability lies in (low, high]: how sure the model was of them, and how often right.

    `interval`: where the accuracy may lie, at 95 % confidence; with few images it is wide.
    """

    low: float
    high: float
    images: int
    confidence: float
    accuracy: float
    interval: Interval


def reliability(probabilities: Float32Array, targets: Targets, bins: int = BINS) -> list[Bin]:
    """The diagram of `probabilities` float32 [n, classes] as bins of equal width; empty ones are left out."""
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = probabilities.argmax(axis=1) == targets
    numbers = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    diagram = []
    for number in np.unique(numbers).tolist():
        members = numbers == number
        images, hits = int(members.sum()), int(right[members].sum())
        diagram.append(
            Bin(
                low=number / bins,
                high=(number + 1) / bins,
                images=images,
                confidence=float(confidences[members].mean()),
                accuracy=hits / images,
                interval=wilson(hits, images),
            )
        )
    return diagram


def expected_calibration_error(diagram: list[Bin]) -> float:
    """Mean distance of confidence and accuracy over all images (Naeini et al. 2015; Guo et al. 2017)."""
    images = sum(bin_.images for bin_ in diagram)
    return sum(bin_.images * abs(bin_.confidence - bin_.accuracy) for bin_ in diagram) / images


def unknown_threshold(probabilities: Float32Array, targets: Targets, keep: float) -> float:
    """The highest probability below which an answer had better be `unknown`.

    The share `keep` of the right answers lies at or above it. It is no higher than 0.9: where nearly all answers are
    surer, the least sure of them are no strangers yet.
    """
    confidences = probabilities.max(axis=1).astype(np.float64)
    right = np.sort(confidences[probabilities.argmax(axis=1) == targets])
    if len(right) == 0:
        return _SURE_ENOUGH
    # Of `len(right)` answers at most the share 1 - keep lies strictly below this one.
    return min(_SURE_ENOUGH, float(right[int(np.floor((1 - keep) * len(right) + 1e-9))]))
