"""Networks of `keras.applications`: built without their last layer, and started from a local file if there is one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
from keras import layers

from app.errors import TrainingFailed
from app.jobs.gate import missing_weights
from app.jobs.networks import Pretrained
from app.training.normalization import Normalization

Tensor = Any

# Of a network that starts from scratch: its own momentum (0.99 or 0.999) would take more steps than a small data set
# has to make the averages of batch normalisation forget where they began.
_MOMENTUM = 0.9

_SIGNED = Normalization((127.5,) * 3, (127.5,) * 3)
# Mean and deviation of ImageNet, which these networks were trained on.
_IMAGENET = Normalization((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))


def scaling(spec: Pretrained) -> Normalization:
    """The scaling of RGB images in [0, 255] that published weights of this network expect."""
    match spec.name:
        case "mobilenet_v2" | "mobilenet_v3_small" | "mobilenet_v3_large" | "resnet50_v2":
            return _SIGNED
        case "efficientnet_v2_b0" | "densenet121" | "convnext_tiny":
            return _IMAGENET


def add_base(x: Tensor, spec: Pretrained) -> Tensor:
    """Features float [n, filters] of scaled images [n, height, width, channels]."""
    base = _base(spec, tuple(x.shape[1:]))
    if spec.weights is None:
        for layer in base.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = min(layer.momentum, _MOMENTUM)
        x = base(x)
    else:
        # The statistics of batch normalisation stay those of the file: a few small batches know less.
        x = base(x, training=False)
    return layers.Dropout(spec.dropout)(x) if spec.dropout else x


def base_of(network: keras.Model) -> keras.Model:
    """The part of a built network that comes from `keras.applications`."""
    return next(layer for layer in network.layers if isinstance(layer, keras.Model))


def load_weights(network: keras.Model, spec: Pretrained, folder: Path) -> None:
    """Give the base of `network` the weights of the file that `spec` names, in `folder`.

    Raises:
        TrainingFailed: there is no such file, or it is not one of this network.
    """
    assert spec.weights is not None
    if reason := missing_weights(spec, folder):
        raise TrainingFailed(reason)
    try:
        base_of(network).load_weights(folder / spec.weights)
    # Keras and h5py raise whatever a strange file runs them into.
    except Exception as error:
        lines = str(error).strip().splitlines()
        raise TrainingFailed(
            f"The weights file {spec.weights!r} does not fit {spec.name} without its last layer "
            f"({(lines[0] if lines else type(error).__name__)[:300]}). It has to be one that Keras saved from this "
            "network with `include_top=False`, with the same width."
        ) from error


def _base(spec: Pretrained, shape: tuple[int, ...]) -> keras.Model:
    applications = keras.applications
    # Without `weights` nothing is looked for, neither here nor elsewhere.
    options: dict[str, Any] = {"include_top": False, "weights": None, "input_shape": shape, "pooling": "avg"}
    match spec.name:
        case "mobilenet_v2":
            return applications.MobileNetV2(alpha=spec.width, **options)
        case "mobilenet_v3_small":
            return applications.MobileNetV3Small(alpha=spec.width, include_preprocessing=False, **options)
        case "mobilenet_v3_large":
            return applications.MobileNetV3Large(alpha=spec.width, include_preprocessing=False, **options)
        case "efficientnet_v2_b0":
            return applications.EfficientNetV2B0(include_preprocessing=False, **options)
        case "resnet50_v2":
            return applications.ResNet50V2(**options)
        case "densenet121":
            return applications.DenseNet121(**options)
        case "convnext_tiny":
            return applications.ConvNeXtTiny(include_preprocessing=False, **options)
