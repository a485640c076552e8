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
# Those of the workload among them.
_PHOTOS = range(48)
_PASSES = 12
_SHIFT = 2.5
_DIRECTIONS = 4
# Deviation of the logits: the likeliest of 1000 classes then gets some 2 to 10 %.
_LOGIT_DEVIATION = 1.7


def build() -> keras.Model:
    """MobileNetV2, float32 [n, 224, 224, 3] in [-1, 1] to float32 probabilities [n, 1000]."""
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, classes=1000)
    photos = scale(np.stack([to_array(pictures.photo(seed), _PREPROCESSING) for seed in _PHOTOS]), _PREPROCESSING)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.5
            if not layer.name.endswith("project_BN"):
                # Mostly above zero, ReLU hardly bends what it gets, and no rounding grows from layer to layer.
                gamma, _, *statistics = layer.get_weights()
                layer.set_weights([gamma, np.full_like(gamma, _SHIFT), *statistics])
    for _ in range(_PASSES):
        model(photos, training=True)
    last = model.layers[-1]
    features = np.asarray(keras.Model(model.input, last.input)(photos, training=False))
    mean = features.mean(axis=0)
    # Rounding in so deep a random network is noise on all features. In the directions in which photos differ most it
    # is small beside what is to be told apart: so bf16 gives nearly the answers of f32, as for a trained network.
    _, deviations, directions = np.linalg.svd(features - mean, full_matrices=False)
    deviations = deviations[:_DIRECTIONS] / np.sqrt(len(features))
    random = np.random.default_rng(0)
    weights = random.normal(0, _LOGIT_DEVIATION / np.sqrt(_DIRECTIONS), (_DIRECTIONS, 1000))
    kernel = directions[:_DIRECTIONS].T @ (weights / deviations[:, None])
    last.set_weights([kernel, -(mean @ kernel)])
    return model


if __name__ == "__main__":
    build().export(sys.argv[1])
