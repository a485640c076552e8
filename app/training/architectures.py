"""The networks that can be trained. Each maps float32 images in [0, 255] to logits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers

from app.errors import TrainingFailed
from app.jobs.input_size import too_small
from app.jobs.networks import Activation, Architecture, Pooling, Pretrained, ResNetSmall, SimpleCNN
from app.preprocessing import Float32Array, Preprocessing, UInt8Array
from app.training.normalization import Normalization
from app.training.pretrained import add_base, scaling
from app.training.whitening import add_whitening

Tensor = Any

# The largest of many activations, summed up over hundreds of channels, are logits so far apart that the first hundreds
# of steps at a high learning rate only undo them. After D. Page, "How to train your ResNet" (2018).
_LOGIT_SCALE = 0.125


def build(
    architecture: Architecture,
    preprocessing: Preprocessing,
    normalization: Normalization,
    classes: int,
    *,
    seed: int,
    mixed_precision: bool = False,
) -> keras.Model:
    """Build the network: float32 [n, height, width, channels] in [0, 255] to float32 logits [n, classes].

    Its weights are random; `initial_weights.set_initial_weights` sets what does not start so.

    Raises:
        TrainingFailed: the network pools the images away, or is made for larger ones.
    """
    if reason := too_small(architecture, height=preprocessing.height, width=preprocessing.width):
        raise TrainingFailed(reason)
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")
    image = keras.Input(preprocessing.shape, name="image", dtype="float32")
    match architecture:
        case SimpleCNN():
            x = _simple_cnn(_scaled(image, normalization), architecture)
        case ResNetSmall():
            x = _resnet_small(_scaled(image, normalization), architecture)
        case Pretrained(weights=None):
            x = add_base(_scaled(image, normalization), architecture)
        case Pretrained():
            # Weights from elsewhere know three channels, and one scaling.
            x = layers.Concatenate()([image] * 3) if preprocessing.channels == 1 else image
            x = add_base(_scaled(x, scaling(architecture)), architecture)
    # Logits and softmax stay in float32: bfloat16 has three digits.
    logits = layers.Dense(classes, name="logits", dtype="float32")(x)
    if isinstance(architecture, ResNetSmall):
        logits = layers.Rescaling(_LOGIT_SCALE, dtype="float32")(logits)
    return keras.Model(image, logits, name=architecture.name)


def finish(network: keras.Model, *, mirrored: bool, temperature: float = 1.0) -> keras.Model:
    """What a version answers with: float32 images in [0, 255] to float32 probabilities [n, classes].

    `mirrored`: the mean over the image and its mirror image. `temperature`: what the logits are divided by.
    """

    def answer(image: Tensor) -> Tensor:
        logits = network(image)
        return layers.Softmax()(logits if temperature == 1 else logits * (1 / temperature))

    image = keras.Input(network.input_shape[1:], name="image", dtype="float32")
    probabilities = answer(image)
    if mirrored:
        mirror_image = keras.ops.flip(image, axis=2)
        probabilities = layers.Average(name="probabilities")([probabilities, answer(mirror_image)])
    return keras.Model(image, probabilities, name=network.name)


def predict(model: keras.Model, images: UInt8Array, batch_size: int = 256) -> Float32Array:
    """Answers of a finished model, float32 [n, classes], to uint8 images [n, height, width, channels]."""
    parts = [
        np.asarray(model(images[start : start + batch_size].astype(np.float32), training=False))
        for start in range(0, len(images), batch_size)
    ]
    return np.concatenate(parts)


def _scaled(x: Tensor, normalization: Normalization) -> Tensor:
    variance = [deviation**2 for deviation in normalization.deviation]
    return layers.Normalization(mean=list(normalization.mean), variance=variance, name="scale", dtype="float32")(x)


def _simple_cnn(x: Tensor, spec: SimpleCNN) -> Tensor:
    for filters in spec.filters:
        entry = x
        for number in range(spec.convolutions):
            if number:
                x = _activation(spec.activation)(x)
            x = layers.Conv2D(filters, spec.kernel, padding="same", use_bias=not spec.batch_norm)(x)
            if spec.batch_norm:
                x = layers.BatchNormalization(momentum=0.9)(x)
        if spec.residual:
            if entry.shape[-1] != filters:
                entry = layers.Conv2D(filters, 1, use_bias=False)(entry)
            x = layers.Add()([entry, x])
        x = _activation(spec.activation)(x)
        x = _pool(spec.pooling, spec.pool_size)(x)
    return _head(layers.Flatten()(x), spec)


def _resnet_small(x: Tensor, spec: ResNetSmall) -> Tensor:
    """Pools right after a stage's first convolution: batch norm and activation then see a quarter of the values.

    After D. Page, "How to train your ResNet" (2018), and K. Jordan, "94% on CIFAR-10 in 3.29 seconds" (2024).
    """
    x = _activation(spec.activation)(add_whitening(x)) if spec.whitening else _convolution(x, spec.stem, spec)
    for filters in spec.filters:
        x = _convolution(x, filters, spec, pool=True)
        for _ in range(spec.blocks):
            y = _convolution(x, filters, spec)
            y = _convolution(y, filters, spec)
            x = layers.Add()([x, y])
    last = layers.GlobalMaxPooling2D if spec.pooling == "max" else layers.GlobalAveragePooling2D
    return _head(last()(x), spec)


def _convolution(x: Tensor, filters: int, spec: ResNetSmall, *, pool: bool = False) -> Tensor:
    x = layers.Conv2D(
        filters, spec.kernel, padding="same", use_bias=not spec.batch_norm, kernel_initializer="he_normal"
    )(x)
    if pool:
        x = _pool(spec.pooling, 2)(x)
    if spec.batch_norm:
        x = layers.BatchNormalization(momentum=0.9)(x)
    return _activation(spec.activation)(x)


def _head(x: Tensor, spec: SimpleCNN | ResNetSmall) -> Tensor:
    if spec.dense_units:
        x = _activation(spec.activation)(layers.Dense(spec.dense_units)(x))
    return layers.Dropout(spec.dropout)(x) if spec.dropout else x


def _pool(kind: Pooling, size: int) -> keras.Layer:
    return layers.MaxPooling2D(size) if kind == "max" else layers.AveragePooling2D(size)


def _activation(name: Activation) -> keras.Layer:
    make: dict[str, Callable[[], keras.Layer]] = {
        "relu": layers.ReLU,
        "leaky_relu": lambda: layers.LeakyReLU(negative_slope=0.1),
        "elu": layers.ELU,
    }
    return make[name]()
