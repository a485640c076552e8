"""Looking into networks: which places speak for a class, what layers answer, what the first one looks for."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from PIL import Image
from tensorflow.python.framework import ops

from app.errors import InvalidRequest, LayerNotFound, NotExplainable
from app.preprocessing import Preprocessing
from app.store.manifest import Golden, Manifest, TensorSpec
from app.training.architectures import finish
from app.training.explained_graph import ExplainedGraph
from app.training.export import export
from app.training.interpretation import Maps, activations, filters, gradcam
from app.training.interpretation_pictures import activation_grid, filter_grid, overlay
from tests.training.importing.foreign_models import images, means, saved

SIZE = 16
LABELS = ["red", "green", "blue"]


def manifest(**changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "model": "colors",
        "labels": LABELS,
        "preprocessing": Preprocessing(height=SIZE, width=SIZE),
        "input": TensorSpec(name="image", dtype="uint8", shape=(-1, SIZE, SIZE, 3)),
        "output": TensorSpec(name="probabilities", dtype="float32", shape=(-1, 3)),
        "golden": Golden(images=["0.png"]),
        "created_at": "2026-01-01T00:00:00Z",
        "created_by": "test",
    }
    return Manifest(**(values | changes))


def network(activation: str = "relu") -> keras.Model:
    """Sees where it is red, green or blue: a map of each, and their means speak for it and against the others."""
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255)(image)
    x = layers.Conv2D(3, 3, padding="same", use_bias=False, name="see")(x)
    x = layers.Activation(activation)(x)
    x = layers.MaxPooling2D(2)(x)
    logits = layers.Dense(3, use_bias=False)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, logits)
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    for color in range(3):
        kernel[1, 1, :, color] = -1
        kernel[1, 1, color, color] = 1
    model.get_layer("see").set_weights([kernel])
    model.layers[-1].set_weights([np.eye(3, dtype=np.float32) * 40 - 20])
    return model


def spots() -> np.ndarray:
    """Red above on the left, and less of green below on the right: uint8 [16, 16, 3]."""
    image = np.zeros((SIZE, SIZE, 3), np.uint8)
    image[1:7, 1:7, 0] = 255
    image[10:14, 10:14, 1] = 255
    return image


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return network()


@pytest.fixture(scope="module")
def graph(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> ExplainedGraph:
    """As a training job exports it."""
    folder = tmp_path_factory.mktemp("plain")
    export(finish(model, mirrored=False), manifest().preprocessing, 3, folder)
    return ExplainedGraph(folder, manifest())


@pytest.fixture(scope="module")
def mirrored(model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> ExplainedGraph:
    """The same, answering with the mean over the image and its mirror image."""
    folder = tmp_path_factory.mktemp("mirrored")
    export(finish(model, mirrored=True, temperature=2.0), manifest().preprocessing, 3, folder)
    return ExplainedGraph(folder, manifest())


def quarter(heat: np.ndarray) -> tuple[bool, bool]:
    """Whether the most of it lies below, and on the right."""
    half = len(heat) // 2
    parts = np.array(
        [[heat[:half, :half].sum(), heat[:half, half:].sum()], [heat[half:, :half].sum(), heat[half:, half:].sum()]]
    )
    assert parts.max() > 0.8 * parts.sum()
    below, right = np.unravel_index(parts.argmax(), parts.shape)
    return bool(below), bool(right)


def test_heat_lies_on_what_speaks_for_the_class(graph: ExplainedGraph, mirrored: ExplainedGraph) -> None:
    """Asked for red it is on the red spot, asked for green on the green one; with the mirror image's answer too."""
    for opened in (graph, mirrored):
        assert quarter(gradcam(opened, spots(), LABELS, label="red").values) == (False, False)
        assert quarter(gradcam(opened, spots(), LABELS, label="green").values) == (True, True)


def test_what_is_answered_is_explained_unless_told_otherwise(graph: ExplainedGraph, model: keras.Model) -> None:
    """Without a label it is the class with the highest probability, which is the version's own."""
    heat = gradcam(graph, spots(), LABELS)
    expected = keras.ops.softmax(model(spots()[np.newaxis].astype(np.float32)))[0, 0]
    assert heat.label == "red"
    assert heat.probability == pytest.approx(float(expected), abs=1e-5)
    assert (heat.values.min(), heat.values.max()) == (0, 1)


def test_no_heat_where_nothing_speaks_for_the_class(graph: ExplainedGraph) -> None:
    """A black image has nothing of any class."""
    assert not gradcam(graph, np.zeros_like(spots()), LABELS, label="blue").values.any()


def test_layers_stand_in_order_under_plain_names(graph: ExplainedGraph, mirrored: ExplainedGraph) -> None:
    """From the image to the answer, once each; and the last that is no pooling is looked at by default."""
    for opened in (graph, mirrored):
        found = [(layer.name, layer.kind, layer.height, layer.channels) for layer in opened.layers]
        assert [entry[1:] for entry in found] == [("convolution", 16, 3), ("activation", 16, 3), ("pooling", 8, 3)]
        assert [entry[0] for entry in found] == ["see", "activation", "max_pooling2d"]
        assert opened.last.name == "activation"
        assert gradcam(opened, spots(), LABELS, layer="max_pooling2d").values.shape == (8, 8)


def test_unknown_layers_and_labels_are_refused_with_those_that_there_are(graph: ExplainedGraph) -> None:
    """Whoever mistypes a name sees the right ones."""
    with pytest.raises(LayerNotFound, match="There is: see, activation, max_pooling2d"):
        activations(graph, spots(), layer="conv")
    with pytest.raises(InvalidRequest, match="Allowed: red, green, blue"):
        gradcam(graph, spots(), LABELS, label="yellow")


def test_maps_are_what_the_layer_puts_out(graph: ExplainedGraph, model: keras.Model) -> None:
    """The very numbers that Keras gives for that layer; of the first one where none is named."""
    image = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    inner = keras.Model(model.input, [model.get_layer("see").output, model.layers[3].output])
    see, activation = (np.asarray(value)[0] for value in inner(image[np.newaxis].astype(np.float32)))
    np.testing.assert_allclose(activations(graph, image).values, see, atol=1e-5)
    np.testing.assert_allclose(activations(graph, image, layer="activation").values, activation, atol=1e-5)


def test_filters_are_the_first_weights_around_a_middle_grey(graph: ExplainedGraph) -> None:
    """Zero is grey, the strongest weight of a filter black or white, and colours are the channels."""
    name, pictures = filters(graph)
    assert name == "see"
    assert pictures.shape == (3, 3, 3, 3)
    assert pictures[0, 1, 1].tolist() == [255, 0, 0]
    assert set(pictures[0, 0].ravel()) == {128}


def test_of_several_first_convolutions_the_one_with_the_filters_is_shown(tmp_path: Path) -> None:
    """A shortcut beside it sees the image too, with filters of one pixel."""
    image = keras.Input((SIZE, SIZE, 3))
    x = layers.Add()([layers.Conv2D(4, 1, name="a_shortcut")(image), layers.Conv2D(4, 5, padding="same")(image)])
    logits = layers.Dense(3)(layers.GlobalAveragePooling2D()(layers.ReLU()(x)))
    export(finish(keras.Model(image, logits), mirrored=False), manifest().preprocessing, 3, tmp_path)
    name, pictures = filters(ExplainedGraph(tmp_path, manifest()))
    assert (name, pictures.shape) == ("conv2d", (4, 5, 5, 3))


def test_operations_with_gradients_of_their_own_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swish brings one that only the process knew which saved it, unless it was saved too."""
    kernel = np.zeros((3, 3, 3, 3), np.float32)
    kernel[1, 1] = np.eye(3) * 1.5 - 0.5

    def see(image: Any) -> Any:
        return tf.reduce_mean(tf.nn.silu(tf.nn.conv2d(tf.cast(image, tf.float32), kernel, 1, "SAME")), (1, 2))

    function = tf.function(see).get_concrete_function(images(None, SIZE, SIZE, 3, dtype=tf.uint8))
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(tf.Module(), str(tmp_path), signatures=function, options=options)
    registry = ops.gradient_registry
    known = {name: entry for name, entry in registry._registry.items() if not name.startswith("CustomGradient")}
    assert len(known) < len(registry._registry)
    monkeypatch.setattr(registry, "_registry", known)
    graph = ExplainedGraph(tmp_path, manifest(activation="softmax"))
    heat = gradcam(graph, spots(), LABELS, label="red", layer=graph.layers[0].name)
    assert quarter(heat.values) == (False, False)


def test_imported_functions_are_explained(tmp_path: Path) -> None:
    """Operations without any layers' names, logits as output, pixels scaled by the service."""

    def see(image: Any) -> Any:
        x = tf.nn.relu(tf.nn.conv2d(image, tf.eye(3)[tf.newaxis, tf.newaxis] * 1.5 - 0.5, 1, "SAME"))
        x = tf.nn.relu(tf.nn.conv2d(x, tf.eye(3)[tf.newaxis, tf.newaxis], 2, "SAME"))
        return tf.reduce_mean(x, (1, 2)) * 20

    saved(see, tmp_path, images(None, SIZE, SIZE, 3))
    described = manifest(
        preprocessing=Preprocessing(height=SIZE, width=SIZE, scaling="0..1"),
        input=TensorSpec(name="image", dtype="float32", shape=(-1, SIZE, SIZE, 3)),
        activation="softmax",
    )
    graph = ExplainedGraph(tmp_path, described)
    assert [layer.name for layer in graph.layers] == ["conv2d_1", "relu_1", "conv2d_2", "relu_2"]
    heat = gradcam(graph, spots(), LABELS, label="green")
    assert quarter(heat.values) == (True, True)
    assert 0 < heat.probability < 1


def test_what_has_no_maps_cannot_be_explained(tmp_path: Path) -> None:
    """It says so: there are no layers to look at, and no filters."""
    saved(means, tmp_path, images(None, SIZE, SIZE, 3))
    graph = ExplainedGraph(tmp_path, manifest(activation="softmax"))
    with pytest.raises(NotExplainable, match="no convolutions"):
        gradcam(graph, spots(), LABELS)
    with pytest.raises(NotExplainable, match="no filters"):
        filters(graph)
    with pytest.raises(NotExplainable, match="TensorFlow cannot take its SavedModel apart"):
        ExplainedGraph(tmp_path / "nothing", manifest())


def opened(png: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(png))
    assert picture.format == "PNG"
    return picture.convert("RGB")


@pytest.mark.parametrize(
    ("size", "shown"), [((16, 16), (320, 320)), ((300, 200), (300, 200)), ((900, 600), (448, 299))]
)
def test_an_overlay_is_red_where_it_is_hot(
    graph: ExplainedGraph, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    """The picture is in a size to look at, red on the heat, and without colour where there is none."""
    heat = gradcam(graph, spots(), LABELS, label="red")
    picture = opened(overlay(np.full((size[1], size[0], 3), 90, np.uint8), heat))
    assert picture.size == shown
    pixels = np.asarray(picture, np.int32)
    hot, cold = pixels[shown[1] // 4, shown[0] // 4], pixels[-2, -2]
    assert hot[0] > hot[1] + 60
    assert np.ptp(cold) <= 2


def test_grids_have_a_cell_for_each_and_of_very_many_the_liveliest() -> None:
    """A thousand maps would be a picture of ten megabytes."""
    maps = np.random.default_rng(1).random((4, 4, 300), np.float32) * np.linspace(0, 1, 300, dtype=np.float32)
    all_of_few = opened(activation_grid(spots(), Maps("add_3", maps[..., :9])))
    most_of_many = opened(activation_grid(spots(), Maps("add_3", maps)))
    assert all_of_few.width < 600
    assert 256 * 84 * 84 < most_of_many.width * most_of_many.height < 300 * 110 * 110
    gray = opened(filter_grid("conv", np.full((4, 3, 3, 1), 128, np.uint8)))
    assert gray.getpixel((20, gray.height - 40)) == (128, 128, 128)
