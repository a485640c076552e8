"""The networks that can be trained. Each maps float32 images in [0, 255] to logits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import layers

from app.errors import TrainingFailed
from app.jobs.spec import ResNetSmall, SimpleCNN
from app.preprocessing import Float32Array, Preprocessing, UInt8Array

Tensor = Any
Architecture = SimpleCNN | ResNetSmall


@dataclass(frozen=True)
class Normalization:
    """Per-channel scaling, (value - mean) / deviation, of pixel values in [0, 255]."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


def choose_normalization(kind: Literal["0..1", "-1..1", "standardize"], images: UInt8Array) -> Normalization:
    """Scaling to [0, 1], to [-1, 1], or to mean 0 and deviation 1 over `images` (the training set)."""
    channels = images.shape[-1]
    if kind == "0..1":
        return Normalization((0.0,) * channels, (255.0,) * channels)
    if kind == "-1..1":
        return Normalization((127.5,) * channels, (127.5,) * channels)
    # Sums over a histogram of the 256 levels: exact, and no float copy of the data.
    levels = np.arange(256, dtype=np.float64)
    counts = [np.bincount(images[..., channel].reshape(-1), minlength=256) for channel in range(channels)]
    means = [float(count @ levels / count.sum()) for count in counts]
    deviations = [
        float(np.sqrt(count @ (levels - mean) ** 2 / count.sum())) for count, mean in zip(counts, means, strict=True)
    ]
    # A constant channel carries nothing; dividing by a level keeps it finite.
    return Normalization(tuple(means), tuple(max(deviation, 1.0) for deviation in deviations))


def default_architecture(preprocessing: Preprocessing) -> Architecture:
    return SimpleCNN() if preprocessing.color == "grayscale" else ResNetSmall()


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

    Raises:
        TrainingFailed: the network pools the images away.
    """
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy("mixed_bfloat16" if mixed_precision else "float32")
    image = keras.Input(preprocessing.shape, name="image", dtype="float32")
    variance = [deviation**2 for deviation in normalization.deviation]
    x = layers.Normalization(mean=list(normalization.mean), variance=variance, name="scale", dtype="float32")(image)
    match architecture:
        case SimpleCNN():
            x = _simple_cnn(x, architecture)
        case ResNetSmall():
            x = _resnet_small(x, architecture)
    # Logits and softmax stay in float32: bfloat16 has three digits.
    logits = layers.Dense(classes, name="logits", dtype="float32")(x)
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


def _simple_cnn(x: Tensor, spec: SimpleCNN) -> Tensor:
    pool = layers.MaxPooling2D if spec.pooling == "max" else layers.AveragePooling2D
    for stage, filters in enumerate(spec.filters, 1):
        for _ in range(spec.convolutions):
            x = layers.Conv2D(filters, spec.kernel, padding="same", use_bias=not spec.batch_norm)(x)
            if spec.batch_norm:
                x = layers.BatchNormalization(momentum=0.9)(x)
            x = _activation(spec.activation)(x)
        if min(x.shape[1], x.shape[2]) < spec.pool_size:
            raise TrainingFailed(
                f"Stage {stage} of {len(spec.filters)} would pool {x.shape[1]} x {x.shape[2]} pixels by "
                f"{spec.pool_size}: use fewer stages, a smaller pool_size or larger images."
            )
        x = pool(spec.pool_size)(x)
    x = layers.Flatten()(x)
    if spec.dense_units:
        x = _activation(spec.activation)(layers.Dense(spec.dense_units)(x))
    return layers.Dropout(spec.dropout)(x) if spec.dropout else x


def _resnet_small(x: Tensor, spec: ResNetSmall) -> Tensor:
    """Pools right after a stage's first convolution: batch norm and activation then see a quarter of the values.

    After D. Page, "How to train your ResNet" (2018), and K. Jordan, "94% on CIFAR-10 in 3.29 seconds" (2024).
    """
    x = _convolution(x, spec.stem, spec)
    for stage, filters in enumerate(spec.filters, 1):
        if min(x.shape[1], x.shape[2]) < 2:
            raise TrainingFailed(
                f"Stage {stage} of {len(spec.filters)} has {x.shape[1]} x {x.shape[2]} pixels left to pool: "
                "use fewer stages or larger images."
            )
        x = _convolution(x, filters, spec, pool=True)
        for _ in range(spec.blocks):
            y = _convolution(x, filters, spec)
            y = _convolution(y, filters, spec)
            x = layers.Add()([x, y])
    x = layers.GlobalMaxPooling2D()(x)
    return layers.Dropout(spec.dropout)(x) if spec.dropout else x


def _convolution(x: Tensor, filters: int, spec: ResNetSmall, *, pool: bool = False) -> Tensor:
    x = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal")(x)
    if pool:
        x = layers.MaxPooling2D(2)(x)
    return _activation(spec.activation)(layers.BatchNormalization(momentum=0.9)(x))


def _activation(name: Literal["relu", "leaky_relu", "elu"]) -> keras.Layer:
    make: dict[str, Callable[[], keras.Layer]] = {
        "relu": layers.ReLU,
        "leaky_relu": lambda: layers.LeakyReLU(negative_slope=0.1),
        "elu": layers.ELU,
    }
    return make[name]()
