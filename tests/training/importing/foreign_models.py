"""Small models as other people make them: Keras networks, and bare TensorFlow functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

SIZE = 12
CLASSES = 3


def network(
    *,
    channels: int = 3,
    size: int | None = SIZE,
    activation: str | None = "softmax",
    units: int = CLASSES,
    rescaling: bool = False,
    dtype: str = "float32",
) -> keras.Model:
    """A tiny convolutional classifier with random weights, the same each time."""
    keras.utils.set_random_seed(7)
    image = keras.Input((size, size, channels), dtype=dtype, name="pixels")
    x = keras.layers.Rescaling(1 / 255)(image) if rescaling else image
    x = keras.layers.Conv2D(4, 3, activation="tanh")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    # Large weights, so that probabilities differ from each other and from image to image.
    initializer = keras.initializers.RandomNormal(stddev=4)
    return keras.Model(image, keras.layers.Dense(units, activation, kernel_initializer=initializer)(x))


def exported(model: keras.Model, folder: Path) -> Path:
    """As `model.export` writes it."""
    model.export(folder, verbose=False)
    return folder


def saved(function: Callable[..., Any], folder: Path, *specs: Any, signature: str = "serving_default") -> Path:
    """As `tf.saved_model.save` writes a function of tensors."""
    module = tf.Module()
    module.function = tf.function(function, input_signature=list(specs))
    tf.saved_model.save(module, str(folder), signatures={signature: module.function})
    return folder


def saved_keras(model: keras.Model, folder: Path) -> Path:
    """As `tf.saved_model.save` writes a Keras model: with all of its functions, some of which may assign variables."""
    tf.saved_model.save(model, str(folder))
    return folder


def images(*shape: int | None, dtype: Any = tf.float32) -> Any:
    return tf.TensorSpec(shape or (None, SIZE, SIZE, 3), dtype, name="image")


def means(image: Any) -> Any:
    """Logits of three classes: how red, green and blue the image is, from -4 to 4."""
    return tf.reduce_mean(tf.cast(image, tf.float32), axis=(1, 2)) / 255 * 8 - 4
