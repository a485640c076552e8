"""A runtime without an engine: for tests, and for trying the service without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from app.errors import InferenceFailed
from app.preprocessing import Float32Array
from app.serving.runtimes.base import Batch
from app.serving.runtimes.outputs import softmax
from app.store.manifest import Manifest


class FakeRuntime:
    """Sorts images by brightness: black is the first class, white the last. Reads no file.

    The probabilities are the softmax of -(c - m)², with c the class's index and m the mean of the pixels, from 0
    (black) to `classes - 1` (white).
    """

    name = "fake"

    def __init__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> None:
        self._classes = len(manifest.labels)
        self._open = True

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        if not self._open:
            raise InferenceFailed("The model has been unloaded.")
        return probabilities(batch, self._classes)

    def close(self) -> None:
        self._open = False


def probabilities(batch: Batch, classes: int) -> Float32Array:
    """What the fake answers: uint8 [n, height, width, channels] to float32 [n, classes]."""
    means = batch.mean(axis=(1, 2, 3), dtype=np.float64) / 255 * (classes - 1)
    return softmax((-((np.arange(classes) - means[:, None]) ** 2)).astype(np.float32))
