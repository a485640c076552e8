"""RandAugment: a few changes drawn at random for each image (E. Cubuk et al., 2019).

In each round the batch is sorted by the change that its images drew, so that each is computed for whom it is meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from app.training.draw import Draw
from app.training.geometry import affine

Tensor = Any

# How far the changes go at magnitude 1.
_DEGREES, _SHEAR, _SHIFT = 90.0, 0.9, 0.5
_LIGHT = 0.9
_BITS = 6

_GEOMETRY = ("rotate", "shear x", "shear y", "shift x", "shift y")


def rand_augment(images: Tensor, rounds: int, magnitude: float, draw: Draw) -> Tensor:
    """Apply `rounds` changes to each image.

    Args:
        images: float32 [n, height, width, channels], in [0, 255]; all but n static.
        rounds: changes an image gets.
        magnitude: how far each goes, in [0, 1].
        draw: random numbers for the batch.

    Returns:
        float32 of the same shape, in [0, 255].
    """
    changes = _LIGHT_CHANGES
    for _ in range(rounds):
        chosen = draw.choice(len(_GEOMETRY) + len(changes))
        # Either way, but never less than half of the magnitude: a change that is none teaches nothing.
        strength = draw(1.0)
        strength = tf.sign(strength) * magnitude * (0.5 + 0.5 * tf.abs(strength))
        # All geometry is one group: its matrix says which of them it is.
        group = tf.maximum(chosen - (len(_GEOMETRY) - 1), 0)
        count = len(changes) + 1
        places = tf.dynamic_partition(tf.range(tf.shape(images)[0]), group, count)
        kinds = tf.gather(chosen, places[0])
        parts = [_shape(tf.gather(images, places[0]), kinds, tf.gather(strength, places[0]))]
        for place, change in zip(places[1:], changes, strict=True):
            parts.append(change(tf.gather(images, place), tf.gather(strength, place)[:, None, None, None]))
        images = tf.ensure_shape(tf.dynamic_stitch(places, parts), images.shape)
    return images


def _shape(images: Tensor, kinds: Tensor, strength: Tensor) -> Tensor:
    """Rotate, shear or shift each image, as its number in `_GEOMETRY` says."""
    size = tf.cast(tf.shape(images), tf.float32)

    def only(name: str, value: Tensor) -> Tensor:
        return tf.where(kinds == _GEOMETRY.index(name), value, tf.zeros_like(value))

    angle = only("rotate", strength * math.radians(_DEGREES))
    cos, sin = tf.cos(angle), tf.sin(angle)
    matrix = (cos, only("shear x", strength * _SHEAR) - sin, sin + only("shear y", strength * _SHEAR), cos)
    shift = (only("shift x", strength * _SHIFT * size[2]), only("shift y", strength * _SHIFT * size[1]))
    return affine(images, matrix, shift)


def _brightness(images: Tensor, strength: Tensor) -> Tensor:
    return _clip(images * (1 + _LIGHT * strength))


def _contrast(images: Tensor, strength: Tensor) -> Tensor:
    mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
    return _clip(mean + (images - mean) * (1 + _LIGHT * strength))


def _colour(images: Tensor, strength: Tensor) -> Tensor:
    grey = tf.reduce_mean(images, axis=3, keepdims=True)
    return _clip(grey + (images - grey) * (1 + _LIGHT * strength))


def _sharpness(images: Tensor, strength: Tensor) -> Tensor:
    smooth = tf.nn.avg_pool2d(images, 3, 1, "SAME")
    return _clip(smooth + (images - smooth) * (1 + _LIGHT * strength))


def _posterize(images: Tensor, strength: Tensor) -> Tensor:
    step = 2.0 ** tf.round(_BITS * tf.abs(strength))
    return tf.floor(images / step) * step


def _solarize(images: Tensor, strength: Tensor) -> Tensor:
    return tf.where(images >= 256 * (1 - tf.abs(strength)), 255 - images, images)


def _auto_contrast(images: Tensor, _strength: Tensor) -> Tensor:
    low = tf.reduce_min(images, axis=(1, 2), keepdims=True)
    high = tf.reduce_max(images, axis=(1, 2), keepdims=True)
    return _clip(tf.where(high > low, (images - low) * 255 / tf.maximum(high - low, 1.0), images))


def _equalize(images: Tensor, _strength: Tensor) -> Tensor:
    """Each channel's levels spread so that all are about equally frequent; the darkest becomes 0, the brightest 255.

    A channel of one level stays as it is.
    """
    _, height, width, channels = images.shape
    levels = tf.cast(tf.round(images), tf.int32)
    flat = tf.reshape(tf.transpose(levels, (0, 3, 1, 2)), (-1, height * width))
    # On graphics cards its kernel adds up in any order, and refuses where results must be the same each time.
    with tf.device("/CPU:0"):
        counts = tf.math.bincount(flat, minlength=256, maxlength=256, axis=-1)
    # A level goes where the share of darker pixels is: with its own, a black background would become nearly white.
    below = tf.cumsum(counts, axis=1, exclusive=True)
    most = tf.reduce_max(tf.where(counts > 0, below, 0), axis=1, keepdims=True)
    table = tf.cast(below, tf.float32) * (255 / tf.cast(tf.maximum(most, 1), tf.float32))
    spread = tf.where(most > 0, _clip(tf.gather(table, flat, batch_dims=1)), tf.cast(flat, tf.float32))
    return tf.transpose(tf.reshape(spread, (-1, channels, height, width)), (0, 2, 3, 1))


def _clip(images: Tensor) -> Tensor:
    return tf.clip_by_value(images, 0.0, 255.0)


_LIGHT_CHANGES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    _brightness,
    _contrast,
    _colour,
    _sharpness,
    _posterize,
    _solarize,
    _auto_contrast,
    _equalize,
)
