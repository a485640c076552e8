"""Models from elsewhere become versions that answer as they did where they came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import tensorflow as tf

from app.metrics import Metrics
from app.preprocessing import Float32Array, UInt8Array, scale, to_array
from app.serving.engine_choice import EngineChoice
from app.serving.versions import load_version
from app.store.manifest import LITERT
from app.store.registry import Registry
from app.training import litert
from app.training.litert import convert
from tests.preprocessing.images import encode, pattern, smooth
from tests.serving.versions import loader
from tests.training.importing.conftest import Import
from tests.training.importing.foreign_models import CLASSES, SIZE, exported, images, means, network, saved, saved_keras

Engine = Literal["openvino", "litert", "tensorflow"]
ENGINES: tuple[Engine, ...] = ("openvino", "litert", "tensorflow")
LABELS = ["ant", "bee", "cat"]


def _golden(folder: Path) -> tuple[UInt8Array, Float32Array]:
    with np.load(folder / "golden" / "expected.npz") as expected:
        return expected["images"], expected["probabilities"]


def _answers(registry: Registry, engine: Engine, batch: UInt8Array) -> Float32Array:
    """What a server with this engine answers with version 1, which passes the checks of loading."""
    loaded = load_version(
        registry, "insects", 1, choice=EngineChoice.only(loader(engine)), lanes=1, threads=1, metrics=Metrics()
    )
    try:
        return loaded.runtime.predict(batch)
    finally:
        loaded.runtime.close()


# What comes out of an import


@pytest.mark.parametrize("kind", ["SavedModel", ".keras"])
@pytest.mark.parametrize("scaling", ["0..1", "-1..1", "imagenet", "caffe", "in_model"])
def test_a_version_answers_as_the_model_did(
    kind: str, scaling: str, import_: Import, registry: Registry, tmp_path: Path
) -> None:
    """Whatever scaling a float model was trained with, served it gives what Keras gives, in every engine."""
    model = network()
    source = exported(model, tmp_path / "export") if kind == "SavedModel" else tmp_path / "model.keras"
    if kind == ".keras":
        model.save(source)
    manifest, folder = import_(source, labels=LABELS, scaling=scaling)
    batch, probabilities = _golden(folder)
    expected = model(scale(batch, manifest.preprocessing).astype(np.float32), training=False).numpy()
    assert np.abs(probabilities - expected).max() < 1e-5
    assert np.ptp(probabilities, axis=0).max() > 1e-3
    for engine in ENGINES:
        assert np.abs(_answers(registry, engine, batch) - expected).max() < 1e-4


def test_the_manifest_says_what_the_model_takes_and_gives(import_: Import, tmp_path: Path) -> None:
    """Labels, size, tensors and origin are those of the model."""
    manifest, folder = import_(exported(network(), tmp_path / "net"), labels=LABELS, scaling="-1..1", fit="crop")
    assert manifest.labels == LABELS
    assert manifest.preprocessing.shape == (SIZE, SIZE, 3)
    assert (manifest.preprocessing.scaling, manifest.preprocessing.fit) == ("-1..1", "crop")
    assert (manifest.input.dtype, manifest.input.shape) == ("float32", (-1, SIZE, SIZE, 3))
    assert manifest.output.shape == (-1, CLASSES)
    assert manifest.activation == "none"
    assert manifest.created_by == "import of net"
    assert manifest.software["tensorflow"] == tf.__version__
    assert (folder / "saved_model.pb").is_file()
    loaded = tf.saved_model.load(str(folder))
    assert manifest.input.name in loaded.signatures["serving_default"].structured_input_signature[1]
    assert manifest.output.name in loaded.signatures["serving_default"].structured_outputs


@pytest.mark.parametrize("kind", ["SavedModel", ".keras"])
def test_logits_get_a_softmax(kind: str, import_: Import, registry: Registry, tmp_path: Path) -> None:
    """A network that ends in logits answers with probabilities, and the manifest says how."""
    model = network(activation=None)
    source = exported(model, tmp_path / "export") if kind == "SavedModel" else tmp_path / "model.keras"
    if kind == ".keras":
        model.save(source)
    manifest, folder = import_(source, labels=LABELS, scaling="0..1")
    assert manifest.activation == "softmax"
    batch, probabilities = _golden(folder)
    assert np.allclose(probabilities, tf.nn.softmax(model(batch / np.float32(255))).numpy(), atol=1e-5)
    assert np.abs(_answers(registry, "openvino", batch) - probabilities).max() < 1e-4


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_keras_file_that_scales_by_itself_needs_no_scaling(dtype: str, import_: Import, tmp_path: Path) -> None:
    """A Rescaling layer says that pixels of 0 to 255 are meant, whatever the dtype."""
    model = network(rescaling=True, dtype=dtype)
    model.save(tmp_path / "model.keras")
    manifest, folder = import_(tmp_path / "model.keras", labels=LABELS)
    assert (manifest.preprocessing.scaling, manifest.input.dtype) == ("in_model", dtype)
    assert (manifest.input.name, manifest.output.name) == ("image", "probabilities")
    batch, probabilities = _golden(folder)
    assert np.abs(probabilities - model(batch.astype(dtype)).numpy()).max() < 1e-5


def test_a_saved_model_with_uint8_input_needs_no_scaling(import_: Import, tmp_path: Path) -> None:
    """uint8 can mean but one thing."""
    source = saved(lambda image: tf.nn.softmax(means(image)), tmp_path / "m", images(dtype=tf.uint8))
    manifest, _ = import_(source, labels=LABELS)
    assert (manifest.preprocessing.scaling, manifest.input.dtype) == ("in_model", "uint8")


def test_grey_models_get_grey_images(import_: Import, tmp_path: Path) -> None:
    """The colour follows from the model's channels."""
    source = exported(network(channels=1), tmp_path / "m")
    manifest, folder = import_(source, labels=LABELS, scaling="0..1")
    assert manifest.preprocessing.color == "grayscale"
    assert _golden(folder)[0].shape[1:] == (SIZE, SIZE, 1)


def test_open_sizes_are_asked_for(import_: Import, tmp_path: Path) -> None:
    """A model that takes images of any size is given the size that the request names."""
    source = exported(network(size=None), tmp_path / "m")
    with pytest.raises(Exception, match="any height; say which"):
        import_(source, labels=LABELS, scaling="0..1")
    manifest, _ = import_(source, labels=LABELS, scaling="0..1", height=20, width=30)
    assert manifest.preprocessing.shape == (20, 30, 3)
    assert manifest.input.shape == (-1, 20, 30, 3)


def test_open_sizes_of_a_keras_file_are_fixed(import_: Import, registry: Registry, tmp_path: Path) -> None:
    """The same for a .keras file, which is exported for that size."""
    network(size=None).save(tmp_path / "model.keras")
    _, folder = import_(tmp_path / "model.keras", labels=LABELS, scaling="0..1", height=20, width=30)
    assert np.abs(_answers(registry, "openvino", _golden(folder)[0]) - _golden(folder)[1]).max() < 1e-4


def test_the_only_signature_is_taken_whatever_its_name(import_: Import, registry: Registry, tmp_path: Path) -> None:
    """It becomes `serving_default`, by which every server finds it."""
    source = saved(means, tmp_path / "m", images(), signature="classify")
    _, folder = import_(source, labels=LABELS, scaling="in_model")
    assert list(tf.saved_model.load(str(folder)).signatures) == ["serving_default"]
    assert np.abs(_answers(registry, "openvino", _golden(folder)[0]) - _golden(folder)[1]).max() < 1e-4


def test_without_labels_classes_have_numbers(import_: Import, tmp_path: Path) -> None:
    """Better than none: the position in the output."""
    manifest, _ = import_(saved(means, tmp_path / "m", images()), scaling="in_model")
    assert manifest.labels == ["0", "1", "2"]


def test_the_given_images_become_golden_examples(import_: Import, tmp_path: Path) -> None:
    """Images of the user's own are kept as they are, with the answers to them."""
    for name, data in {"a photo.JPG": encode(smooth(40, 60), "JPEG"), "b.png": encode(pattern(9, 9), "PNG")}.items():
        (tmp_path / name).write_bytes(data)
    paths = [tmp_path / "a photo.JPG", tmp_path / "b.png"]
    manifest, folder = import_(saved(means, tmp_path / "m", images()), scaling="in_model", images=paths)
    assert manifest.golden.images == ["00.jpg", "01.png"]
    assert (folder / "golden" / "00.jpg").read_bytes() == paths[0].read_bytes()
    assert np.array_equal(_golden(folder)[0][1], to_array(paths[1].read_bytes(), manifest.preprocessing))


def test_only_the_saved_model_is_taken_from_its_folder(import_: Import, tmp_path: Path) -> None:
    """Notes, training data or keys that lie beside it stay where they are."""
    source = saved(means, tmp_path / "m", images())
    (source / "secret.key").write_text("key")
    _, folder = import_(source, scaling="in_model")
    assert not (folder / "secret.key").exists()


def test_the_same_import_gives_the_same_golden_examples(import_: Import, tmp_path: Path) -> None:
    """The synthetic images are no dice."""
    source = saved(means, tmp_path / "m", images())
    first, second = (_golden(import_(source, scaling="in_model")[1]) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


# The LiteRT export


@pytest.mark.parametrize("activation", ["softmax", None])
def test_the_variables_of_a_plain_saved_model_are_constants_for_litert(
    activation: str | None, import_: Import, registry: Registry, tmp_path: Path
) -> None:
    """What `tf.saved_model.save` writes of a Keras model answers in LiteRT, too, as the model did."""
    model = network(activation=activation)
    manifest, folder = import_(saved_keras(model, tmp_path / "m"), labels=LABELS, scaling="0..1")
    assert LITERT in manifest.files
    batch, probabilities = _golden(folder)
    scores = model(scale(batch, manifest.preprocessing), training=False).numpy()
    expected = scores if activation else tf.nn.softmax(scores).numpy()
    assert np.abs(probabilities - expected).max() < 1e-5
    assert np.abs(_answers(registry, "litert", batch) - expected).max() < 1e-4


def test_a_litert_export_that_answers_otherwise_is_not_shipped(
    import_: Import, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version is imported without it, and answers with the other engines."""
    other = convert(saved(lambda image: -means(image), tmp_path / "other", images()))
    monkeypatch.setattr(litert, "convert", lambda _folder: other)
    manifest, folder = import_(saved(means, tmp_path / "m", images()), scaling="in_model")
    assert LITERT not in manifest.files
    assert not (folder / LITERT).exists()
    assert np.abs(_answers(registry, "openvino", _golden(folder)[0]) - _golden(folder)[1]).max() < 1e-4


# The command


def _command(request: object, folder: Path, arguments: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
    file = folder / "request.json"
    file.write_text(json.dumps(request))
    return subprocess.run(
        [sys.executable, "-m", "app.training.importer", *(arguments or [str(file)])],
        env={**os.environ, "FOVEA_MODEL_STORE": str(folder / "store")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_prints_the_version_and_nothing_else(registry: Registry, tmp_path: Path) -> None:
    """One line of JSON on the standard output, whatever libraries print."""
    network(rescaling=True).save(tmp_path / "model.keras")
    request = {"source": str(tmp_path / "model.keras"), "model": "insects", "labels": LABELS}
    done = _command(request, tmp_path)
    assert done.returncode == 0, done.stderr
    assert [json.loads(line) for line in done.stdout.splitlines()] == [{"model": "insects", "version": 1}]
    assert registry.verify("insects", 1).labels == LABELS


def test_the_command_tells_what_is_wrong_in_its_last_line(tmp_path: Path) -> None:
    """One sentence on the standard error, exit status 2, and no traceback; also when nothing needs TensorFlow."""
    cases = [
        (
            {"source": "m", "model": "../evil"},
            "'../evil' is not a valid model name. Allowed: 1 to 63 characters out of a-z",
        ),
        ({"source": "m", "model": "a", "colour": "rgb"}, "colour: there is no such field."),
        ({"source": "m", "model": "a", "labels": ["one"]}, "labels: "),
        ([], "The request is not valid: "),
    ]
    for request, reason in cases:
        done = _command(request, tmp_path)
        assert (done.returncode, done.stdout) == (2, "")
        assert reason in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_the_command_without_its_file_says_so(tmp_path: Path) -> None:
    """A file that is not there is named as such."""
    done = _command({}, tmp_path, [str(tmp_path / "nothing.json")])
    assert done.returncode == 1
    assert "No such file" in done.stderr.splitlines()[-1]
