"""The sheet of a report that shows what augmentation makes of training images."""

from __future__ import annotations

import numpy as np
import tensorflow as tf
from PIL import Image

from app.jobs.spec import Augmentation
from app.training.augmentation import augment
from app.training.dataset import TrainingData
from app.training.pictures import as_png, enlarged

# Rows (images) and columns (the image itself, then changed ones); the size of each image and the gap, in pixels.
_SAMPLES, _VARIANTS = 5, 6
_SIDE, _GAP = 96, 4


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
    sheet = _sheet([[enlarged(image, _SIDE, _SIDE) for image in images] for images in columns])
    return as_png(sheet, optimize=True)


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
