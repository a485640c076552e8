"""Affine maps of images."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def affine(images: Tensor, matrix: tuple[Tensor, Tensor, Tensor, Tensor], shift: tuple[Tensor, Tensor]) -> Tensor:
    """Resample each image about its centre, bilinearly, with the image reflected beyond its border.

    Args:
        images: float32 [n, height, width, channels].
        matrix: a, b, c, d, each float32 [n]: what is at (x, y) comes from (a x + b y, c x + d y) + shift.
        shift: in x and in y, float32 [n], in pixels.
    """
    a, b, c, d = matrix
    size = tf.cast(tf.shape(images), tf.float32)
    centre_x, centre_y = (size[2] - 1) / 2, (size[1] - 1) / 2
    zero = tf.zeros_like(a)
    x = centre_x + shift[0] - (a * centre_x + b * centre_y)
    y = centre_y + shift[1] - (c * centre_x + d * centre_y)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack([a, b, x, c, d, y, zero, zero], axis=1),
        # Static: what comes after may need to know it.
        output_shape=list(images.shape[1:3]),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="REFLECT",
    )
