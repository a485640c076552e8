"""What a network answers to a part of the data, and how far that is from the truth."""

from __future__ import annotations

from collections.abc import Callable

import keras
import numpy as np

from app.preprocessing import Float32Array, UInt8Array
from app.training.architectures import predict
from app.training.batches import in_pieces
from app.training.dataset import TrainingData
from app.training.reporter import Reporter
from app.training.sources import Targets
from app.training.splits import Indices


def answer(
    model: keras.Model,
    data: TrainingData,
    positions: Indices,
    reporter: Reporter,
    view: Callable[[UInt8Array], UInt8Array] = lambda images: images,
) -> Float32Array:
    """Answers float32 [n, classes] to the images at `positions`, each seen through `view`.

    Raises:
        Cancelled: the job was asked to stop.
    """
    answers = []
    for images, _ in in_pieces(data, positions):
        answers.append(predict(model, view(images)))
        reporter.check_cancelled()
    return np.concatenate(answers)


def mirrored(images: UInt8Array) -> UInt8Array:
    """Left and right changed over, of images [n, height, width, channels]."""
    return images[:, :, ::-1]


def cross_entropy(probabilities: Float32Array, targets: Targets) -> float:
    """Mean of -log of the true class's probability; what float32 rounds to zero counts as its smallest number."""
    given = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())
