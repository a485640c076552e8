"""What imported models get: the scalings of the field, against their published formulas."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from app.preprocessing import Float32Array, Preprocessing, UInt8Array, scale
from tests.preprocessing.images import pattern

Scaling = Literal["in_model", "0..1", "-1..1", "imagenet", "caffe"]
BATCH: UInt8Array = np.stack([pattern(5, 7), pattern(5, 7)[::-1]])


def _scaled(scaling: Scaling, batch: UInt8Array = BATCH) -> UInt8Array | Float32Array:
    return scale(batch, Preprocessing(height=5, width=7, scaling=scaling))


def test_in_model_leaves_the_bytes_to_the_model() -> None:
    """The very batch is passed on: uint8, not copied."""
    assert _scaled("in_model") is BATCH


@pytest.mark.parametrize("scaling", ["0..1", "-1..1", "imagenet", "caffe"])
def test_scaled_batches_are_float32_of_the_same_shape(scaling: Scaling) -> None:
    """Engines take float32, contiguous; the batch itself stays as it was."""
    before = BATCH.copy()
    values = _scaled(scaling)
    assert values.dtype == np.float32
    assert values.shape == BATCH.shape
    assert values.flags.c_contiguous
    assert np.array_equal(BATCH, before)


def test_0_to_1() -> None:
    """x / 255: black is 0 and white is 1, exactly."""
    assert np.allclose(_scaled("0..1"), BATCH / 255, atol=1e-7)
    assert _scaled("0..1", np.array([[[[0, 255, 51]]]], np.uint8)).ravel().tolist() == [0.0, 1.0, np.float32(0.2)]


def test_minus_1_to_1() -> None:
    """x / 127.5 - 1: mode "tf" of keras.applications' preprocess_input (MobileNetV2, InceptionV3, Xception)."""
    assert np.allclose(_scaled("-1..1"), BATCH / 127.5 - 1, atol=1e-6)
    assert _scaled("-1..1", np.array([[[[0, 255, 0]]]], np.uint8)).ravel().tolist() == [-1.0, 1.0, -1.0]


def test_imagenet() -> None:
    """(x / 255 - mean) / std by channel: mode "torch" of keras.applications (DenseNet), and torchvision's."""
    expected = (BATCH / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(_scaled("imagenet"), expected, atol=1e-5)


def test_caffe() -> None:
    """BGR less the channel means: mode "caffe" of keras.applications (ResNet50, VGG16)."""
    blue, green, red = BATCH[..., 2], BATCH[..., 1], BATCH[..., 0]
    expected = np.stack([blue - 103.939, green - 116.779, red - 123.68], axis=-1)
    assert np.allclose(_scaled("caffe"), expected, atol=1e-4)


@pytest.mark.parametrize("scaling", ["0..1", "-1..1"])
def test_grey_is_scaled_like_color(scaling: Scaling) -> None:
    """One channel stays one channel."""
    spec = Preprocessing(height=5, width=7, color="grayscale", scaling=scaling)
    values = scale(BATCH[..., :1], spec)
    assert np.array_equal(values, _scaled(scaling)[..., :1])


@pytest.mark.parametrize("scaling", ["imagenet", "caffe"])
def test_scalings_with_three_constants_need_three_channels(scaling: Scaling) -> None:
    """With grey they would silently make three channels out of one."""
    with pytest.raises(ValidationError, match="color must be 'rgb'"):
        Preprocessing(height=5, width=7, color="grayscale", scaling=scaling)
