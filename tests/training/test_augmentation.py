"""Random changes to training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from app.jobs.spec import Augmentation
from app.preprocessing import Preprocessing
from app.training.augmentation import augment, default_augmentation

Array = np.ndarray[Any, Any]


def _augment(images: Array, seed: int = 0, **fields: Any) -> Array:
    return np.asarray(augment(tf.constant(images), Augmentation(**fields), tf.constant([seed, 0])))


def test_nothing_asked_changes_nothing(photos: Array) -> None:
    """With every option at zero, images come back as they went in."""
    np.testing.assert_allclose(_augment(photos), photos, atol=1e-3)


@pytest.mark.parametrize(
    "option",
    [
        {"rotation": 30},
        {"shift": 0.3},
        {"zoom": 0.4},
        {"shear": 30},
        {"horizontal_flip": True},
        {"vertical_flip": True},
        {"brightness": 0.3},
        {"contrast": 0.6},
        {"crop_padding": 4},
        {"cutout": 8},
    ],
    ids=lambda option: next(iter(option)),
)
def test_each_option_changes_images_by_the_seed(photos: Array, option: dict[str, Any]) -> None:
    """Every option does something, the same for the same seed, and stays within [0, 255]."""
    first, again, other = (_augment(photos, seed, **option) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.allclose(first, photos, atol=1)
    assert first.shape == photos.shape
    assert first.min() >= 0
    assert first.max() <= 255


def test_a_flip_mirrors_some_images_exactly(photos: Array) -> None:
    """A flipped image is the mirrored one to the last bit, and about half of them are flipped."""
    flipped = _augment(photos, horizontal_flip=True)
    mirrored = [np.allclose(after, before[:, ::-1], atol=1e-3) for before, after in zip(photos, flipped, strict=True)]
    kept = [np.allclose(after, before, atol=1e-3) for before, after in zip(photos, flipped, strict=True)]
    assert all(a != b for a, b in zip(mirrored, kept, strict=True))
    assert any(mirrored)
    assert any(kept)


def test_a_crop_moves_by_whole_pixels(photos: Array) -> None:
    """Cropping out of a padded image does not blur: every value was there before."""
    cropped = _augment(photos, crop_padding=4)
    for before, after in zip(photos, cropped, strict=True):
        assert np.isin(np.rint(after), before).all()
        np.testing.assert_allclose(after, np.rint(after), atol=1e-3)


def test_cutout_blanks_one_square(photos: Array) -> None:
    """Cutout changes at most side x side pixels of an image, all to mid-grey."""
    changed = (_augment(photos, cutout=8) != photos).all(axis=-1)
    assert ((changed.sum(axis=(1, 2)) > 0) & (changed.sum(axis=(1, 2)) <= 64)).all()


def test_brightness_and_contrast_act_on_their_own(photos: Array) -> None:
    """Brightness shifts all pixels alike; contrast keeps the mean."""
    middle = (photos // 4 + 96).astype(np.uint8)
    shift = _augment(middle, brightness=0.1) - middle
    np.testing.assert_allclose(shift, np.broadcast_to(shift[:, :1, :1, :1], shift.shape), atol=1e-3)
    contrasted = _augment(middle, contrast=0.5)
    np.testing.assert_allclose(contrasted.mean(axis=(1, 2, 3)), middle.mean(axis=(1, 2, 3)), atol=1e-2)


def test_defaults_never_flip_what_may_be_writing() -> None:
    """A mirrored digit is another sign: greyscale defaults have no flips, colour defaults do."""
    assert not default_augmentation(Preprocessing(height=28, width=28, color="grayscale")).horizontal_flip
    assert default_augmentation(Preprocessing(height=32, width=32)).horizontal_flip
