"""Scaling of pixel values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.training.normalization import Normalization, choose_normalization

IMAGES = np.random.default_rng(0).integers(10, 200, (50, 8, 8, 3)).astype(np.uint8)


@pytest.mark.parametrize("chunk", [50, 7], ids=["at once", "in chunks"])
def test_normalisation_is_the_one_asked_for(chunk: int) -> None:
    """[0, 1], [-1, 1] and standardised, per channel, from the training images however they come."""
    values = IMAGES.astype(np.float64)

    def scaled(kind: Any) -> Any:
        chosen = choose_normalization(kind, (IMAGES[start : start + chunk] for start in range(0, 50, chunk)), 3)
        return (values - chosen.mean) / chosen.deviation

    np.testing.assert_allclose(scaled("0..1"), values / 255)
    np.testing.assert_allclose(scaled("-1..1"), values / 127.5 - 1)
    np.testing.assert_allclose(scaled("standardize").mean(axis=(0, 1, 2)), 0, atol=1e-9)
    np.testing.assert_allclose(scaled("standardize").std(axis=(0, 1, 2)), 1, atol=1e-9)


def test_a_channel_without_variation_stays_finite() -> None:
    """A constant channel is shifted, and divided by nothing smaller than a level."""
    assert choose_normalization("standardize", [np.full((2, 4, 4, 1), 7, np.uint8)], 1) == Normalization((7.0,), (1.0,))
