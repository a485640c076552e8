"""Intervals and tests, against published examples and SciPy's."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest  # type: ignore[import-untyped]

from app.training.significance import Interval, mcnemar, paired_interval, wilson


def test_wilsons_interval_is_that_of_the_literature() -> None:
    """81 of 263, the example of Newcombe (Statistics in Medicine 17, 1998): 0.2553 to 0.3662."""
    interval = wilson(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


@pytest.mark.parametrize(("right", "images"), [(0, 10), (1, 3), (10, 10), (4630, 5000), (269, 270)])
def test_wilsons_interval_is_that_of_scipy(right: int, images: int) -> None:
    """At the ends, too, where it stays within [0, 1] and holds the share itself."""
    ours = wilson(right, images, 0.9)
    theirs = binomtest(right, images).proportion_ci(0.9, "wilson")
    assert ours.low == pytest.approx(theirs.low)
    assert ours.high == pytest.approx(theirs.high)
    assert 0 <= ours.low <= right / images <= ours.high <= 1


def test_without_images_any_accuracy_is_possible() -> None:
    """A class that the test split has no image of may be recognised always or never."""
    assert wilson(0, 0) == Interval(0.0, 1.0)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 7), (6, 16), (38, 17), (5, 5), (3_000, 3_200), (0, 60)])
def test_mcnemars_test_is_the_exact_one(gained: int, lost: int) -> None:
    """The p-value is the binomial test's on the images on which just one model is right."""
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar(gained, lost) == pytest.approx(expected, rel=1e-8)
    assert mcnemar(lost, gained) == mcnemar(gained, lost)


def test_the_paired_interval_is_that_of_the_literature() -> None:
    """1 gained and 7 lost of 21, the example of Fagerland et al. (Statistics in Medicine 33, 2014) for Tango's."""
    interval = paired_interval(1, 7, 21, 0.975)
    assert (round(interval.low, 3), round(interval.high, 3)) == (-0.517, -0.026)


def test_the_paired_interval_turns_over_with_the_models() -> None:
    """What one has gained the other has lost; and equal models differ by zero, give or take."""
    one, other = paired_interval(20, 9, 300), paired_interval(9, 20, 300)
    assert one.low == pytest.approx(-other.high)
    assert one.high == pytest.approx(-other.low)
    same = paired_interval(0, 0, 270)
    assert same.low == pytest.approx(-same.high)
    assert same.low < 0


@pytest.mark.parametrize(("images", "gained", "lost"), [(60, 0.05, 0.10), (400, 0.03, 0.02), (2_000, 0.02, 0.04)])
def test_each_end_of_the_paired_interval_holds_as_often_as_it_says(images: int, gained: float, lost: float) -> None:
    """Of 2,000 test splits about 95 of 100 have a lower end below the true difference."""
    draws = np.random.default_rng(0).multinomial(images, [gained, lost, 1 - gained - lost], 2_000)
    held = [paired_interval(int(b), int(c), images).low <= gained - lost for b, c, _ in draws]
    assert 0.93 <= np.mean(held) <= 0.975
