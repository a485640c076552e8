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

# About how large pictures are, in pixels: small ones are enlarged, each pixel staying a square, and large ones shrunk,
# so that a page with all of them stays within 3 MB even where they are all noise.
_SMALLEST, _LARGEST = 96, 128

# Rows (images) and columns (the image itself, then changed ones) of the sheet of augmented samples.
_SAMPLES, _VARIANTS = 5, 6
_GAP = 4


def picture(pixels: UInt8Array) -> bytes:
    """An image [height, width, channels] as PNG, in a size for people."""
    return _png(_sized(pixels, _SMALLEST, _LARGEST))


def augmented_samples(data: TrainingData, augmentation: Augmentation, seed: int) -> bytes:
    """A sheet of training images as the network meets them: on the left as they are, then augmented; as PNG."""
    chosen = np.random.default_rng([seed, 5]).choice(data.train, min(_SAMPLES, len(data.train)), replace=False)
    # One class after the other, as far as they go.
    chosen = chosen[np.argsort(data.targets[chosen], kind="stable")]
    images = data.images[chosen]
    labels = tf.one_hot(data.targets[chosen], len(data.labels))
    columns = [images]
    for variant in range(1, _VARIANTS):
        changed, _ = augment(images, labels, augmentation, tf.constant([seed % 2**31, variant], tf.int32))
        columns.append(np.clip(np.rint(np.asarray(changed)), 0, 255).astype(np.uint8))
    return _png(_sheet([[_sized(image, _SMALLEST, _SMALLEST) for image in images] for images in columns]))


def _sheet(columns: list[list[Image.Image]]) -> Image.Image:
    """Columns of images of one size, on white."""
    first = columns[0][0]
    tall, broad = first.height + _GAP, first.width + _GAP
    # A wider gap sets the images themselves apart from what was made of them.
    size = (len(columns) * broad + _GAP, len(columns[0]) * tall - _GAP)
    sheet = Image.new(first.mode, size, "white")
    for column, images in enumerate(columns):
        left = column * broad + (2 * _GAP if column else 0)
        for row, image in enumerate(images):
            sheet.paste(image, (left, row * tall))
    return sheet


def _sized(pixels: UInt8Array, smallest: int, largest: int) -> Image.Image:
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    side = max(image.size)
    if side > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        return image
    factor = max(1, smallest // side)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _png(image: Image.Image) -> bytes:
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return written.getvalue()
