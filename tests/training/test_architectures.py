"""The networks, from the formulas up."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from pydantic import ValidationError

from app.errors import TrainingFailed
from app.jobs.networks import ResNetSmall, SimpleCNN
from app.preprocessing import Preprocessing
from app.training.architectures import build, finish, predict
from app.training.normalization import Normalization

GRAY = Preprocessing(height=28, width=28, color="grayscale")
COLOUR = Preprocessing(height=32, width=32)
PLAIN = Normalization((0.0,), (255.0,))
PLAIN_RGB = Normalization((0.0,) * 3, (255.0,) * 3)


def _kinds(model: keras.Model) -> list[str]:
    return [type(layer).__name__ for layer in model.layers]


def test_convolution_pooling_relu_and_softmax_follow_their_formulas() -> None:
    """The building blocks compute what the textbook says, on numbers that can be checked by hand."""
    patch = np.arange(1, 10, dtype=np.float32).reshape(1, 3, 3, 1)
    kernel = np.array([[1, 0], [0, -1]], np.float32).reshape(2, 2, 1, 1)
    convolution = layers.Conv2D(1, 2, use_bias=False)
    convolution.build(patch.shape)
    convolution.set_weights([kernel])
    # O(0, 0) = 1*1 + 2*0 + 4*0 + 5*(-1)
    assert np.asarray(convolution(patch)).ravel().tolist() == [-4, -4, -4, -4]
    square = np.arange(1, 17, dtype=np.float32).reshape(1, 4, 4, 1)
    assert np.asarray(layers.MaxPooling2D(2)(square)).ravel().tolist() == [6, 8, 14, 16]
    assert np.asarray(layers.AveragePooling2D(2)(square)).ravel().tolist() == [3.5, 5.5, 11.5, 13.5]
    assert np.asarray(layers.ReLU()(np.array([[-2.0, 0.0, 3.0]], np.float32))).tolist() == [[0, 0, 3]]
    scores = np.array([[1.0, 2.0, 3.0]], np.float32)
    expected = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(np.asarray(keras.ops.softmax(scores)), expected, rtol=1e-6)


def test_the_simple_cnn_is_the_classic_stack() -> None:
    """Conv 32 of 3 x 3, pool, conv 64, pool, flatten, dense 128, one logit a class."""
    model = build(SimpleCNN(batch_norm=False, dropout=0), GRAY, PLAIN, 3, seed=0)
    assert _kinds(model)[2:] == [
        "Conv2D", "ReLU", "MaxPooling2D", "Conv2D", "ReLU", "MaxPooling2D", "Flatten", "Dense", "ReLU", "Dense",
    ]  # fmt: skip
    convolutions = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    assert [(layer.filters, layer.kernel_size) for layer in convolutions] == [(32, (3, 3)), (64, (3, 3))]
    assert [layer.units for layer in model.layers if isinstance(layer, layers.Dense)] == [128, 3]


@pytest.mark.parametrize(
    ("fields", "kind", "count"),
    [
        ({"filters": (8, 8, 8)}, "Conv2D", 3),
        ({"convolutions": 2}, "Conv2D", 4),
        ({"pooling": "average"}, "AveragePooling2D", 2),
        ({"activation": "leaky_relu"}, "LeakyReLU", 3),
        ({"activation": "elu"}, "ELU", 3),
        ({"dense_units": 0}, "Dense", 1),
        ({"dropout": 0.5}, "Dropout", 1),
        ({"batch_norm": True}, "BatchNormalization", 2),
        ({"residual": True}, "Add", 2),
        ({"residual": True, "convolutions": 2, "filters": (8, 8)}, "Conv2D", 5),
    ],
)
def test_every_field_of_the_simple_cnn_shapes_it(fields: dict[str, Any], kind: str, count: int) -> None:
    """Depth, convolutions a stage, pooling, activation, dense units, dropout and batch norm are all obeyed."""
    assert _kinds(build(SimpleCNN(**fields), GRAY, PLAIN, 3, seed=0)).count(kind) == count


def test_a_residual_stage_answers_with_its_input_where_its_convolutions_say_nothing() -> None:
    """With kernels of zero, what comes out of a stage of the residual classic is what went in."""
    model = build(
        SimpleCNN(filters=(1,), residual=True, batch_norm=False, dense_units=0, dropout=0), GRAY, PLAIN, 2, seed=0
    )
    (convolution,) = [layer for layer in model.layers if isinstance(layer, layers.Conv2D)]
    convolution.set_weights([np.zeros_like(array) for array in convolution.get_weights()])
    (pooling,) = [layer for layer in model.layers if isinstance(layer, layers.MaxPooling2D)]
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1)).astype(np.float32)
    stage = keras.Model(model.input, pooling.input)
    np.testing.assert_allclose(np.asarray(stage(images)), images / 255, atol=1e-6)


def test_the_residual_network_adds_what_it_skips() -> None:
    """resnet_small has one addition a block, and answers with one logit a class."""
    model = build(ResNetSmall(stem=8, filters=(8, 16), blocks=2), COLOUR, PLAIN_RGB, 5, seed=0)
    assert _kinds(model).count("Add") == 4
    assert model.output_shape == (None, 5)


@pytest.mark.parametrize(
    ("fields", "kind", "count"),
    [
        ({"pooling": "average"}, "AveragePooling2D", 2),
        ({"pooling": "average"}, "GlobalAveragePooling2D", 1),
        ({"pooling": "max"}, "GlobalMaxPooling2D", 1),
        ({"batch_norm": False}, "BatchNormalization", 0),
        ({"dense_units": 16}, "Dense", 2),
        ({"dropout": 0.5}, "Dropout", 1),
        ({"activation": "elu"}, "ELU", 7),
        ({"whitening": True}, "BatchNormalization", 6),
    ],
)
def test_every_field_of_the_residual_network_shapes_it(fields: dict[str, Any], kind: str, count: int) -> None:
    """Pooling, batch norm, dense units, dropout, activation and the whitening stem are all obeyed."""
    model = build(ResNetSmall(**{"stem": 8, "filters": (8, 8), **fields}), COLOUR, PLAIN_RGB, 3, seed=0)
    assert _kinds(model).count(kind) == count


def test_the_kernel_of_the_residual_network_is_the_one_asked_for() -> None:
    """All of its convolutions have as many rows and columns."""
    model = build(ResNetSmall(stem=8, filters=(8,), kernel=5), COLOUR, PLAIN_RGB, 3, seed=0)
    assert {layer.kernel_size for layer in model.layers if isinstance(layer, layers.Conv2D)} == {(5, 5)}


def test_too_many_stages_for_the_image_are_refused() -> None:
    """A network that would pool the picture away says so before it trains."""
    with pytest.raises(TrainingFailed, match=r"6 stages.* have room for 4.*use fewer stages"):
        build(SimpleCNN(filters=(4,) * 6), GRAY, PLAIN, 3, seed=0)
    with pytest.raises(TrainingFailed, match=r"6 stages.* have room for 5.*use fewer stages"):
        build(ResNetSmall(stem=4, filters=(4,) * 6), COLOUR, PLAIN_RGB, 3, seed=0)
    # As many as there is room for, where what is left of the image cannot be shared out evenly.
    build(SimpleCNN(filters=(4,) * 2, pool_size=4), GRAY, PLAIN, 3, seed=0)
    build(ResNetSmall(stem=4, filters=(4,) * 5, whitening=True), COLOUR, PLAIN_RGB, 3, seed=0)


def test_absurd_sizes_are_refused_by_the_spec() -> None:
    """Filters out of bounds never reach the trainer."""
    with pytest.raises(ValidationError, match="between 1 and 2048"):
        SimpleCNN(filters=(100_000,))


def test_predictions_are_probabilities_whatever_the_batch() -> None:
    """Rows sum to 1, and an image's answer does not depend on its neighbours."""
    images = np.random.default_rng(0).integers(0, 256, (10, 28, 28, 1), np.uint8)
    model = finish(build(SimpleCNN(), GRAY, PLAIN, 3, seed=0), mirrored=False)
    together = predict(model, images)
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(predict(model, images, batch_size=1), together, atol=1e-6)


def test_the_mirror_average_does_not_care_for_left_and_right() -> None:
    """With it, an image and its mirror image get the same answer: the mean of their two answers."""
    images = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 1), np.uint8)
    mirror_images = np.ascontiguousarray(images[:, :, ::-1])
    network = build(SimpleCNN(), GRAY, PLAIN, 3, seed=0)
    plain, mirrored = finish(network, mirrored=False), finish(network, mirrored=True)
    assert not np.allclose(predict(plain, images), predict(plain, mirror_images), atol=1e-4)
    mean = (predict(plain, images) + predict(plain, mirror_images)) / 2
    np.testing.assert_allclose(predict(mirrored, images), mean, atol=1e-6)
    np.testing.assert_allclose(predict(mirrored, mirror_images), mean, atol=1e-6)
