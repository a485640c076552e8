"""A first convolution that decorrelates neighbouring pixels.

After D. Page, "How to train your ResNet 8: Bag of tricks" (2019), and K. Jordan, "94% on CIFAR-10 in 3.29 seconds"
(2024).
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.lib.stride_tricks import sliding_window_view

from app.preprocessing import Float32Array, UInt8Array
from app.training.normalization import Normalization

Tensor = Any

_LAYER = "whitening"
_SIDE = 2
_PATCHES = 500_000

# Added to the variance along each direction: what hardly varies is noise, and is not blown up more than tenfold.
_LEAST_VARIANCE = 0.01


def add_whitening(x: Tensor) -> Tensor:
    """The fixed convolution, with twice as many filters as a patch has values; `whiten` computes its kernel."""
    filters = 2 * _SIDE * _SIDE * x.shape[-1]
    return layers.Conv2D(filters, _SIDE, padding="same", use_bias=False, trainable=False, name=_LAYER)(x)


def whiten(network: keras.Model, images: UInt8Array, normalization: Normalization) -> None:
    """Set the kernel from training images, uint8 [n, height, width, channels]; `sample_size` says how many do."""
    network.get_layer(_LAYER).set_weights([whitening_kernel(images, normalization)])


def sample_size(height: int, width: int) -> int:
    """Images from which the statistics of patches are good enough."""
    return max(1, _PATCHES // (height * width))


def whitening_kernel(images: UInt8Array, normalization: Normalization) -> Float32Array:
    """float32 [2, 2, channels, filters]: principal components of patches, each scaled to variance 1, and negated."""
    channels = images.shape[-1]
    scaled = (images - np.array(normalization.mean, np.float32)) / np.array(normalization.deviation, np.float32)
    windows = sliding_window_view(scaled, (_SIDE, _SIDE), axis=(1, 2))
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(-1, _SIDE * _SIDE * channels)
    patches = patches - patches.mean(axis=0)
    variances, directions = np.linalg.eigh(patches.T.astype(np.float64) @ patches / len(patches))
    components = directions / np.sqrt(np.maximum(variances, 0) + _LEAST_VARIANCE)
    kernel = components.reshape(_SIDE, _SIDE, channels, -1)
    # Both signs: the activation behind it drops one of them.
    return np.concatenate([kernel, -kernel], axis=-1).astype(np.float32)
