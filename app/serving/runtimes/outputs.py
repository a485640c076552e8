"""From what a graph puts out to what `Runtime.predict` promises."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from app.preprocessing import Float32Array
from app.store.manifest import Manifest


def to_probabilities(output: npt.NDArray[np.generic], manifest: Manifest) -> Float32Array:
    """Bring a graph's output [n, classes] to float32, with the softmax that the manifest asks for."""
    values = np.ascontiguousarray(output, dtype=np.float32)
    return softmax(values) if manifest.activation == "softmax" else values


def softmax(logits: Float32Array) -> Float32Array:
    """Softmax over the last axis; the largest logit is taken off first, so that nothing overflows."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), np.float32)


def no_images(manifest: Manifest) -> Float32Array:
    """The answer to an empty batch: float32 [0, classes]."""
    return np.empty((0, len(manifest.labels)), np.float32)
