"""Random changes to training images, drawn from a seed: the same seed gives the same batch.

Geometry first, then light, RandAugment, cutout, and mixup of what came of them. Flips and crops alone move whole
pixels, which is quick; with any other geometry all of it is one affine map an image, in one resampling.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from app.jobs.spec import Augmentation
from app.training.draw import Draw
from app.training.geometry import affine
from app.training.mixing import mix_up
from app.training.rand_augment import rand_augment

Tensor = Any


def augment(images: Tensor, labels: Tensor, spec: Augmentation, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Change each image of a batch on its own, and its label where images are mixed.

    Args:
        images: [n, height, width, channels], any dtype, in [0, 255]; height, width and channels are static.
        labels: float32 [n, classes], one-hot.
        spec: what may change, and how far.
        seed: int32 [2].

    Returns:
        images as float32 of the same shape, in [0, 255], and labels whose rows sum to 1.
    """
    draw = Draw(seed, tf.shape(images)[0])
    if spec.rotation or spec.shift or spec.zoom or spec.shear:
        images = _warp(tf.cast(images, tf.float32), spec, draw)
    elif spec.horizontal_flip or spec.vertical_flip or spec.crop_padding:
        images = tf.cast(_move(images, spec, draw), tf.float32)
    else:
        images = tf.cast(images, tf.float32)
    if spec.contrast:
        mean = tf.reduce_mean(images, axis=(1, 2, 3), keepdims=True)
        images = (images - mean) * (1 + draw(spec.contrast)[:, None, None, None]) + mean
    if spec.brightness:
        images = images + 255 * draw(spec.brightness)[:, None, None, None]
    if spec.contrast or spec.brightness:
        images = tf.clip_by_value(images, 0.0, 255.0)
    if spec.rand_augment:
        images = rand_augment(images, spec.rand_augment, spec.rand_magnitude, draw)
    if spec.cutout:
        images = _cut_out(images, spec.cutout, draw)
    return mix_up(images, labels, spec.mixup, draw) if spec.mixup else (images, labels)


def _move(images: Tensor, spec: Augmentation, draw: Draw) -> Tensor:
    """Flip, and crop out of the image with a reflected border: both only choose rows and columns."""
    _, height, width, _ = images.shape
    rows = _positions(height, spec.crop_padding, flip=spec.vertical_flip, draw=draw)
    columns = _positions(width, spec.crop_padding, flip=spec.horizontal_flip, draw=draw)
    if rows is not None:
        images = tf.gather(images, rows, axis=1, batch_dims=1)
    if columns is not None:
        images = tf.gather(images, columns, axis=2, batch_dims=1)
    return images


def _positions(length: int, padding: int, *, flip: bool, draw: Draw) -> Tensor | None:
    """For each image, int32 [n, length]: where each row or column comes from; None where all stay in place."""
    if not (padding or flip):
        return None
    positions = tf.range(length)[None, :]
    if padding:
        moved = positions + tf.cast(tf.round(draw(padding + 0.49)), tf.int32)[:, None]
        # Reflected at the first and at the last pixel, as often as a wide border needs.
        period = max(1, 2 * (length - 1))
        positions = (length - 1) - tf.abs((length - 1) - tf.math.floormod(moved, period))
    if flip:
        positions = tf.where(draw(1.0)[:, None] < 0, positions[:, ::-1], positions)
    return positions


def _warp(images: Tensor, spec: Augmentation, draw: Draw) -> Tensor:
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
    return affine(images, (a0, a1, b0, b1), (shift_x, shift_y))


def _cut_out(images: Tensor, side: int, draw: Draw) -> Tensor:
    """Blank a square of `side` pixels, at a random centre, with mid-grey."""
    shape = tf.shape(images)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    top = tf.floor((draw(0.5) + 0.5) * height) - side // 2
    left = tf.floor((draw(0.5) + 0.5) * width) - side // 2
    rows = tf.range(height)[None, :] - top[:, None]
    columns = tf.range(width)[None, :] - left[:, None]
    inside_rows = (rows >= 0) & (rows < side)
    inside_columns = tf.repeat((columns >= 0) & (columns < side), images.shape[3], axis=1)
    # Rows of values, and a mask and a grey of the same shape: to spread them while choosing takes three times as long.
    flat = tf.reshape(images, (-1, images.shape[1], images.shape[2] * images.shape[3]))
    blank = inside_rows[:, :, None] & inside_columns[:, None, :]
    return tf.reshape(tf.where(blank, tf.fill(tf.shape(flat), 127.5), flat), shape)
