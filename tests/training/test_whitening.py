"""The first convolution that decorrelates neighbouring pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.jobs.networks import ResNetSmall
from app.preprocessing import Preprocessing
from app.training.architectures import build
from app.training.normalization import choose_normalization
from app.training.whitening import whiten, whitening_kernel

Array = np.ndarray[Any, Any]


@pytest.fixture
def smooth() -> Array:
    """64 pictures whose neighbouring pixels and channels are much alike, uint8 [64, 32, 32, 3]."""
    random = np.random.default_rng(0)
    coarse = random.normal(0, 50, (64, 8, 8, 1)).repeat(4, axis=1).repeat(4, axis=2)
    return np.clip(128 + coarse + random.normal(0, 15, (64, 32, 32, 3)), 0, 255).astype(np.uint8)


def test_what_comes_out_is_decorrelated(smooth: Array) -> None:
    """Half of the filters answer with about variance 1 each, not correlated; the other half is their negative."""
    normalization = choose_normalization("standardize", [smooth], 3)
    kernel = whitening_kernel(smooth, normalization)
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
    scaled = (smooth - np.array(normalization.mean)) / normalization.deviation
    patches = np.stack([scaled[:, i : i + 31, j : j + 31] for i in range(2) for j in range(2)], axis=3).reshape(-1, 12)
    before, after = np.cov(patches.T), np.cov((patches @ kernel[..., :12].reshape(12, 12)).T)
    assert np.abs(before - np.diag(np.diag(before))).max() > 0.5
    np.testing.assert_allclose(after, np.diag(np.diag(after)), atol=1e-3)
    assert np.diag(after).min() > 0.8
    assert np.diag(after).max() <= 1.001


def test_the_network_keeps_the_kernel_as_it_is(smooth: Array) -> None:
    """The kernel is part of the weights, but not of what is trained."""
    normalization = choose_normalization("standardize", [smooth], 3)
    spec = ResNetSmall(whitening=True, filters=(8,))
    network = build(spec, Preprocessing(height=32, width=32), normalization, 3, seed=0)
    whiten(network, smooth, normalization)
    layer = network.get_layer("whitening")
    np.testing.assert_array_equal(layer.get_weights()[0], whitening_kernel(smooth, normalization))
    assert layer.trainable_weights == []


def test_pictures_without_variation_do_no_harm() -> None:
    """Flat training images give a finite kernel."""
    flat = np.full((4, 16, 16, 1), 9, np.uint8)
    kernel = whitening_kernel(flat, choose_normalization("standardize", [flat], 1))
    assert np.isfinite(kernel).all()
