"""Probabilities that mean what they say, and the threshold of `unknown`."""

from __future__ import annotations

import numpy as np
import pytest

from app.preprocessing import Float32Array
from app.training.answers import cross_entropy
from app.training.calibration import fit_temperature, probabilities
from app.training.reliability import Bin, expected_calibration_error, reliability, unknown_threshold
from app.training.significance import wilson
from app.training.sources import Targets


def _drawn(images: int, sharpness: float, classes: int = 10) -> tuple[Float32Array, Targets]:
    """Logits [1, n, classes] that are `sharpness` times too large for targets drawn from them."""
    random = np.random.default_rng(1)
    logits = 2 * random.normal(size=(1, images, classes)).astype(np.float32)
    given = probabilities(logits, 1.0).astype(np.float64)
    ends = given.cumsum(axis=1)
    targets = (random.random((images, 1)) > ends / ends[:, -1:]).sum(axis=1).astype(np.int32)
    return sharpness * logits, targets


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 3.0])
def test_the_temperature_takes_back_what_made_a_network_too_sure(sharpness: float) -> None:
    """Logits three times too large get the temperature 3; those of a timid network one below 1."""
    logits, targets = _drawn(20_000, sharpness)
    temperature = fit_temperature(logits, targets)
    assert temperature == pytest.approx(sharpness, rel=0.05)
    before, after = probabilities(logits, 1.0), probabilities(logits, temperature)
    assert cross_entropy(after, targets) <= cross_entropy(before, targets)
    assert expected_calibration_error(reliability(after, targets)) < 0.015
    if sharpness != 1:
        assert expected_calibration_error(reliability(before, targets)) > 0.05
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


def test_a_few_right_answers_do_not_make_a_network_sure_of_everything() -> None:
    """On thirty images that are all right the likeliest temperature would be none at all; it stays near 1."""
    logits = np.full((1, 30, 3), -2, np.float32)
    logits[0, :, 1] = 2
    assert 0.5 < fit_temperature(logits, np.ones(30, np.int32)) < 1


def test_views_of_an_image_answer_together() -> None:
    """Logits of an image and its mirror image: the mean of their probabilities is what is fitted."""
    logits, targets = _drawn(2_000, 3.0)
    both = np.concatenate([logits, logits])
    assert fit_temperature(both, targets) == pytest.approx(fit_temperature(logits, targets))
    np.testing.assert_allclose(probabilities(both, 2.0), probabilities(logits, 2.0), atol=1e-6)


def test_the_reliability_diagram_counts_every_image_once() -> None:
    """Two bins: four images that are 95 % sure, of which three are right, and one that is 55 % sure and wrong."""
    given = np.array([[0.95, 0.05]] * 4 + [[0.55, 0.45]], np.float32)
    diagram = reliability(given, np.array([0, 0, 0, 1, 1], np.int32), bins=10)
    assert [(bin_.low, bin_.high, bin_.images, bin_.accuracy) for bin_ in diagram] == [
        (0.5, 0.6, 1, 0.0),
        (0.9, 1.0, 4, 0.75),
    ]
    assert expected_calibration_error(diagram) == pytest.approx((4 * 0.2 + 1 * 0.55) / 5)


def test_certainty_falls_into_the_last_bin() -> None:
    """A probability of exactly 1 has a bin, as has the lowest there can be."""
    diagram = reliability(np.array([[1, 0], [0.5, 0.5]], np.float32), np.array([0, 0], np.int32))
    assert diagram[-1] == Bin(14 / 15, 1.0, images=1, confidence=1.0, accuracy=1.0, interval=wilson(1, 1))
    assert sum(bin_.images for bin_ in diagram) == 2


def test_the_threshold_keeps_the_share_of_right_answers_that_was_asked_for() -> None:
    """Of 100 right answers, 0.400 to 0.895 sure, five lie below it; wrong ones do not count."""
    sure = np.concatenate([np.linspace(0.4, 0.895, 100), np.full(30, 0.41)])
    given = np.stack([sure, (1 - sure) / 2, (1 - sure) / 2], axis=1).astype(np.float32)
    targets = np.repeat([0, 1], [100, 30]).astype(np.int32)
    threshold = unknown_threshold(given, targets, keep=0.95)
    assert (given[:100].max(axis=1) < threshold).sum() == 5
    assert unknown_threshold(given, targets, keep=1.0) == given[:100].max(axis=1).min()


def test_the_threshold_does_not_turn_sure_answers_away() -> None:
    """Where nearly all are surer than 0.9 the threshold stays there; likewise where none is right."""
    given = np.tile(np.array([[0.999, 0.001]], np.float32), (50, 1))
    assert unknown_threshold(given, np.zeros(50, np.int32), keep=0.95) == 0.9
    assert unknown_threshold(given, np.ones(50, np.int32), keep=0.95) == 0.9
