"""Random changes to training images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from app.jobs.spec import Augmentation
from app.training.augmentation import augment
from app.training.draw import Draw
from app.training.rand_augment import _equalize, rand_augment

Array = np.ndarray[Any, Any]


def _augment(images: Array, seed: int = 0, **fields: Any) -> Array:
    return _augment_both(images, seed, **fields)[0]


def _augment_both(images: Array, seed: int = 0, **fields: Any) -> tuple[Array, Array]:
    """Augmented images and labels; each image has a class of its own."""
    labels = tf.eye(len(images))
    changed, mixed = augment(tf.constant(images), labels, Augmentation(**fields), tf.constant([seed, 0]))
    return np.asarray(changed), np.asarray(mixed)


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
        {"rand_augment": 2},
        {"mixup": 0.4},
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
    """A crop out of the image with a reflected border is to the last bit what NumPy cuts out of it."""
    padded = np.pad(photos, ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    found = set()
    for number, cropped in enumerate(_augment(photos, crop_padding=4)):
        places = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(padded[number, top : top + 32, left : left + 32], cropped)
        ]
        assert places
        found.add(places[0])
    assert len(found) > 2


def test_flips_and_crops_work_together_and_with_wide_borders(photos: Array) -> None:
    """Wherever a crop falls, in a flipped image too, all of its rows and columns come from the picture."""
    small = photos[:, ::4, ::4]
    changed = _augment(small, horizontal_flip=True, vertical_flip=True, crop_padding=20)
    for before, after in zip(small, changed, strict=True):
        assert np.isin(after, before).all()


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


def test_mixup_mixes_images_and_labels_by_the_same_share(photos: Array) -> None:
    """An image is as much its neighbour as its label is; rows of labels go on summing to 1."""
    images, labels = _augment_both(photos, mixup=1)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert ((labels > 0.01).sum(axis=1) == 2).any()
    expected = np.einsum("nm,mhwc->nhwc", labels, photos.astype(np.float32))
    np.testing.assert_allclose(images, expected, atol=1e-2)


def test_without_mixup_labels_stay_as_they_are(photos: Array) -> None:
    """Whatever else happens to an image, its label is still its own."""
    _, labels = _augment_both(photos, rotation=30, rand_augment=3, cutout=8)
    np.testing.assert_array_equal(labels, np.eye(len(photos)))


def test_a_weak_mixup_leaves_most_images_nearly_alone() -> None:
    """Shares come from Beta(alpha, alpha): near 0 or 1 where alpha is small, in the middle where it is large."""
    shares = {alpha: np.asarray(Draw(tf.constant([1, 2]), tf.constant(2000)).beta(alpha)) for alpha in (0.1, 4.0)}
    extreme = {alpha: float(((share < 0.1) | (share > 0.9)).mean()) for alpha, share in shares.items()}
    assert extreme[0.1] > 0.7
    assert extreme[4.0] < 0.05
    assert all(abs(share.mean() - 0.5) < 0.03 for share in shares.values())


@pytest.mark.parametrize("shape", [(64, 32, 32, 3), (64, 16, 24, 1), (1, 8, 8, 3)], ids=["colour", "grey", "single"])
def test_rand_augment_changes_images_of_any_shape(shape: tuple[int, ...]) -> None:
    """Each image gets its own changes, the same for the same seed, within [0, 255]."""
    images = np.random.default_rng(0).integers(0, 256, shape).astype(np.float32)

    def changed(seed: int, rounds: int = 2) -> Array:
        draw = Draw(tf.constant([seed, 0]), tf.constant(shape[0]))
        return np.asarray(rand_augment(tf.constant(images), rounds, 0.5, draw))

    first = changed(1)
    np.testing.assert_array_equal(first, changed(1))
    assert first.shape == shape
    assert np.isfinite(first).all()
    assert first.min() >= 0
    assert first.max() <= 255
    if shape[0] > 1:
        assert not np.array_equal(first, changed(2))
        assert np.mean([np.allclose(one, other, atol=1) for one, other in zip(first, images, strict=True)]) < 0.2


def test_levels_are_equalized_as_pillow_does() -> None:
    """A black background stays black, and one level alone what it is."""
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (256, 256, 3), np.uint8)
    pictures = {
        "random": noise,
        "dim": noise // 5 + 20,
        "mostly black": noise * (random.random((256, 256, 1)) < 0.1),
        "flat": np.full_like(noise, 77),
    }
    equalized = np.asarray(_equalize(tf.constant(np.stack([*pictures.values()]), tf.float32), tf.zeros(())))
    for (name, picture), ours in zip(pictures.items(), equalized, strict=True):
        theirs = np.asarray(ImageOps.equalize(Image.fromarray(picture.astype(np.uint8))), np.float32)
        assert np.abs(ours - theirs).max() < 2, name
    assert np.median(equalized[2]) == 0


def test_levels_are_counted_on_the_processor() -> None:
    """The kernel of graphics cards refuses to where results are to be the same each time."""
    graph = tf.function(_equalize).get_concrete_function(tf.TensorSpec((None, 8, 8, 3)), tf.TensorSpec(())).graph
    counting = [operation.device for operation in graph.get_operations() if "Bincount" in operation.type]
    assert counting
    assert all(device.endswith("CPU:0") for device in counting)


def test_rand_augment_draws_all_changes_equally_often() -> None:
    """Of thirteen kinds, each comes in about a thirteenth: here the two that can be told by their results."""
    random = np.random.default_rng(0)
    image = (random.integers(0, 256, (1, 16, 16, 3)) // 2 + 40).astype(np.float32)
    images = image.repeat(1300, axis=0)
    out = np.asarray(rand_augment(tf.constant(images), 1, 0.7, Draw(tf.constant([3, 0]), tf.constant(1300))))
    low, high = image.min(axis=(1, 2)), image.max(axis=(1, 2))
    stretched = (image[0] - low) * 255 / (high - low)
    darker = np.stack([np.searchsorted(np.sort(image[0, ..., c].ravel()), image[0, ..., c]) for c in range(3)], axis=-1)
    for reference in (stretched, darker * 255 / darker.max(axis=(0, 1))):
        share = np.isclose(out, reference, atol=0.01).all(axis=(1, 2, 3)).mean()
        assert share == pytest.approx(1 / 13, abs=0.025)
