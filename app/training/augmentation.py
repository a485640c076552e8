"""Random changes to training images, drawn from a seed: the same seed gives the same batch.

All geometry is one affine map an image, applied in one resampling; then light, then cutout.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from app.jobs.spec import Augmentation
from app.preprocessing import Preprocessing

Tensor = Any


def default_augmentation(preprocessing: Preprocessing) -> Augmentation:
    """What is safe without knowing the subject: no flips for grayscale (digits, letters, lines)."""
    if preprocessing.color == "grayscale":
        return Augmentation(rotation=8, shift=0.08, zoom=0.08)
    side = min(preprocessing.height, preprocessing.width)
    return Augmentation(horizontal_flip=True, crop_padding=max(1, side // 8), cutout=side // 4)


def augment(images: Tensor, spec: Augmentation, seed: Tensor) -> Tensor:
    """Change each image of a batch on its own.

    Args:
        images: [n, height, width, channels], any dtype, in [0, 255].
        spec: what may change, and how far.
        seed: int32 [2].

    Returns:
        float32 of the same shape, in [0, 255].
    """
    images = tf.cast(images, tf.float32)
    draw = _Draw(seed, tf.shape(images)[0])
    images = _move(images, spec, draw)
    if spec.contrast:
        mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
        images = (images - mean) * (1 + draw(spec.contrast)[:, None, None, None]) + mean
    if spec.brightness:
        images = images + 255 * draw(spec.brightness)[:, None, None, None]
    if spec.contrast or spec.brightness:
        images = tf.clip_by_value(images, 0.0, 255.0)
    if spec.cutout:
        images = _cut_out(images, spec.cutout, draw)
    return images


class _Draw:
    """Uniform numbers in [-limit, limit], one an image; every call has a seed of its own."""

    def __init__(self, seed: Tensor, count: Tensor) -> None:
        self._seed = seed
        self._count = count
        self._calls = 0

    def __call__(self, limit: float) -> Tensor:
        self._calls += 1
        seed = tf.random.fold_in(self._seed, self._calls)
        return tf.random.stateless_uniform((self._count,), seed, -limit, limit)


def _move(images: Tensor, spec: Augmentation, draw: _Draw) -> Tensor:
    """Flip, rotate, shear, zoom, shift and crop in one affine resampling."""
    shape = tf.cast(tf.shape(images), tf.float32)
    height, width = shape[1], shape[2]
    zero = tf.zeros(tf.shape(images)[:1])
    angle = draw(math.radians(spec.rotation)) if spec.rotation else zero
    slant = tf.tan(draw(math.radians(spec.shear))) if spec.shear else zero
    scale = 1 + draw(spec.zoom) if spec.zoom else zero + 1
    flip_x = tf.sign(draw(1.0)) if spec.horizontal_flip else zero + 1
    flip_y = tf.sign(draw(1.0)) if spec.vertical_flip else zero + 1
    shift_x = draw(spec.shift) * width if spec.shift else zero
    shift_y = draw(spec.shift) * height if spec.shift else zero
    if spec.crop_padding:
        # Whole pixels: a crop out of a padded image must not blur it.
        shift_x += tf.round(draw(spec.crop_padding + 0.49))
        shift_y += tf.round(draw(spec.crop_padding + 0.49))
    # Output to input coordinates about the centre: (rotation x shear x zoom) x flip.
    cos, sin = tf.cos(angle) * scale, tf.sin(angle) * scale
    a0, a1 = cos * flip_x, (cos * slant - sin) * flip_y
    b0, b1 = sin * flip_x, (sin * slant + cos) * flip_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    a2 = centre_x + shift_x - (a0 * centre_x + a1 * centre_y)
    b2 = centre_y + shift_y - (b0 * centre_x + b1 * centre_y)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1),
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )


def _cut_out(images: Tensor, side: int, draw: _Draw) -> Tensor:
    """Blank a square of `side` pixels, at a random centre, with mid-grey."""
    shape = tf.shape(images)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    top = tf.floor((draw(0.5) + 0.5) * height) - side // 2
    left = tf.floor((draw(0.5) + 0.5) * width) - side // 2
    rows = tf.range(height)[None, :] - top[:, None]
    columns = tf.range(width)[None, :] - left[:, None]
    inside_rows = (rows >= 0) & (rows < side)
    inside_columns = (columns >= 0) & (columns < side)
    blank = inside_rows[:, :, None, None] & inside_columns[:, None, :, None]
    return tf.where(blank, 127.5, images)
