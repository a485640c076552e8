"""What counts of right and wrong answers allow to be said, and what may be chance."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

# Halvings of [-1, 1]: finer than any double.
_HALVINGS = 60


@dataclass(frozen=True)
class Interval:
    """Two ends, as shares."""

    low: float
    high: float


def wilson(right: int, images: int, confidence: float = 0.95) -> Interval:
    """Where the accuracy lies that `right` of `images` were drawn from: Wilson's score interval (1927).

    It stays within [0, 1], and says something sensible where all answers are right, few images were asked, or none.

    Raises:
        ValueError: more right answers than images.
    """
    if not 0 <= right <= images:
        raise ValueError(f"{right} right answers of {images} images are no share")
    if images == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = right / images
    scale = 1 + z * z / images
    centre = (share + z * z / (2 * images)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    # At the ends the two terms are equal; rounding must not put the share itself outside.
    return Interval(0.0 if right == 0 else centre - half, 1.0 if right == images else centre + half)


def mcnemar(gained: int, lost: int) -> float:
    """Exact two-sided p-value of McNemar's test (1947).

    Of the images on which just one of two models is right, `gained` are one's and `lost` the other's. Were the two
    equally good, each would be either's with even odds: the value is the chance of a split at least as uneven.
    """
    unequal = gained + lost
    fewer = min(gained, lost)
    # Binomial coefficients as logarithms: they exceed a double from some thousand images on.
    whole = math.lgamma(unequal + 1) - unequal * math.log(2)
    tail = math.fsum(
        math.exp(whole - math.lgamma(count + 1) - math.lgamma(unequal - count + 1)) for count in range(fewer + 1)
    )
    return min(1.0, 2 * tail)


def paired_interval(gained: int, lost: int, images: int, confidence: float = 0.95) -> Interval:
    """Where the difference of two accuracies lies that were measured on the same `images`; in shares.

    Each end holds with `confidence` on its own: as `low` is compared with a margin, it is a test that the difference
    is no worse than that. Tango's score interval (Statistics in Medicine 17, 1998), which agrees with McNemar's
    test and keeps its promise on few images.

    Raises:
        ValueError: more unequal answers than images, or no images.
    """
    if gained < 0 or lost < 0 or images <= 0 or gained + lost > images:
        raise ValueError(f"{gained} gained and {lost} lost do not fit {images} images")
    z = NormalDist().inv_cdf(confidence)
    return Interval(
        low=_crossing(gained, lost, images, z),
        # The same question with the models changed over.
        high=-_crossing(lost, gained, images, z),
    )


def _crossing(gained: int, lost: int, images: int, z: float) -> float:
    """The difference below the observed one whose score statistic is `z`."""
    low, high = -1.0, (gained - lost) / images
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _score(middle, gained, lost, images) > z:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(difference: float, gained: int, lost: int, images: int) -> float:
    """How many standard errors the observed difference lies above the assumed one; falls with the latter.

    The standard error is that under the assumption: of the share of lost images which fits the observed counts best
    given the difference (the larger root of a quadratic).
    """
    distance = gained - lost - images * difference
    a = 2 * images
    b = -gained - lost + (2 * images - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share_lost = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = images * (2 * share_lost + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)
