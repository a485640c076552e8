"""`python -m benchmarks.mobilenet FOLDER`: export a MobileNetV2 whose answers can be told apart, without any download.

The weights are random, from a fixed seed. Freshly made, such a network gives all images nearly the same answer:
here its batch normalisation has seen some photos, and its last layer spreads what they differ in over the classes.
"""

from __future__ import annotations

import sys

import keras
import numpy as np

from app.preprocessing import Preprocessing, scale, to_array
from benchmarks import pictures

_PREPROCESSING = Preprocessing(height=224, width=224, color="rgb", scaling="-1..1")
_PHOTOS = range(1000, 1048)
_PASSES = 12
# Deviation of the logits: the likeliest of 1000 classes then gets some 5 to 20 %.
_LOGIT_DEVIATION = 2.0


def build() -> keras.Model:
    """MobileNetV2, float32 [n, 224, 224, 3] in [-1, 1] to float32 probabilities [n, 1000]."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, classes=1000)
    photos = scale(np.stack([to_array(pictures.photo(seed), _PREPROCESSING) for seed in _PHOTOS]), _PREPROCESSING)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
    for _ in range(_PASSES):
        model(photos, training=True)
    last = model.layers[-1]
    features = np.asarray(keras.Model(model.input, last.input)(photos, training=False))
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-3
    random = np.random.default_rng(0)
    kernel = random.normal(0, _LOGIT_DEVIATION / np.sqrt(len(mean)), (len(mean), 1000)) / deviation[:, None]
    last.set_weights([kernel, -(mean @ kernel)])
    return model


if __name__ == "__main__":
    build().export(sys.argv[1])
