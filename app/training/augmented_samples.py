"""The sheet of a report that shows what augmentation makes of training images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image

from app.jobs.spec import Augmentation
from app.training.augmentation import augment
from app.training.dataset import TrainingData
from app.training.pictures import as_png, enlarged

# Rows (an image each, of a class of its own), at most, and columns (the image itself, then changed ones); the size of
# each image and the gap, in pixels.
_SAMPLES, _VARIANTS = 5, 6
_SIDE, _GAP = 96, 4


@dataclass(frozen=True)
class Samples:
    """A sheet of augmented images as PNG, and the label of each of its rows, which are equally high."""

    sheet: bytes
    labels: list[str]


def augmented_samples(data: TrainingData, augmentation: Augmentation, seed: int) -> Samples:
    """Training images as the network meets them, a row a class: on the left as they are, then augmented.

    Of more classes than there is room for the seed chooses some.
    """
    random = np.random.default_rng([seed, 5])
    count = len(data.labels)
    classes = np.sort(random.choice(count, min(_SAMPLES, count), replace=False))
    targets = data.targets[data.train]
    chosen = np.array([random.choice(data.train[targets == number]) for number in classes])
    images = data.images[chosen]
    labels = tf.one_hot(data.targets[chosen], count)
    columns = [images]
    for variant in range(1, _VARIANTS):
        changed, _ = augment(images, labels, augmentation, tf.constant([seed % 2**31, variant], tf.int32))
        columns.append(np.clip(np.rint(np.asarray(changed)), 0, 255).astype(np.uint8))
    sheet = _sheet([[enlarged(image, _SIDE, _SIDE) for image in images] for images in columns])
    return Samples(as_png(sheet, optimize=True), [data.labels[number] for number in classes])


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
