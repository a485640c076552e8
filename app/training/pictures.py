"""Small pictures for a report, as PNG."""

from __future__ import annotations

import io

import numpy as np
import tensorflow as tf
from PIL import Image

from app.jobs.spec import Augmentation
from app.preprocessing import UInt8Array
from app.training.augmentation import augment
from app.training.dataset import TrainingData

# Small pictures are enlarged to about this many pixels, each pixel staying a square.
_SIDE = 96

# Rows (images) and columns (the image itself, then changed ones) of the sheet of augmented samples.
_SAMPLES, _VARIANTS = 6, 7
_GAP = 4


def picture(pixels: UInt8Array, side: int = _SIDE) -> bytes:
    """An image [height, width, channels] as PNG."""
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    factor = max(1, side // max(image.size))
    enlarged = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    written = io.BytesIO()
    enlarged.save(written, "PNG", optimize=True)
    return written.getvalue()


def augmented_samples(data: TrainingData, augmentation: Augmentation, seed: int) -> bytes:
    """A sheet of training images as the network meets them: on the left as they are, then augmented; as PNG."""
    chosen = np.random.default_rng([seed, 5]).choice(data.train, min(_SAMPLES, len(data.train)), replace=False)
    # One class after the other, as far as they go.
    chosen = chosen[np.argsort(data.targets[chosen], kind="stable")]
    images = data.images[chosen]
    columns = [images]
    for variant in range(1, _VARIANTS):
        changed = augment(images, augmentation, tf.constant([seed % 2**31, variant], tf.int32))
        columns.append(np.clip(np.rint(np.asarray(changed)), 0, 255).astype(np.uint8))
    return picture(_sheet(columns), side=1)


def _sheet(columns: list[UInt8Array]) -> UInt8Array:
    """Columns of images [n, height, width, channels], enlarged, on white."""
    rows, height, width, channels = columns[0].shape
    factor = max(1, _SIDE // max(height, width))
    tall, broad = height * factor + _GAP, width * factor + _GAP
    # A wider gap sets the images themselves apart from what was made of them.
    sheet = np.full((rows * tall - _GAP, len(columns) * broad + _GAP, channels), 255, np.uint8)
    for column, images in enumerate(columns):
        left = column * broad + (2 * _GAP if column else 0)
        for row, image in enumerate(images):
            enlarged = image.repeat(factor, axis=0).repeat(factor, axis=1)
            top = row * tall
            sheet[top : top + tall - _GAP, left : left + broad - _GAP] = enlarged
    return sheet
