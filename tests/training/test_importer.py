"""Models from elsewhere become versions that answer as they did where they came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from app.metrics import Metrics
from app.preprocessing import Float32Array, UInt8Array, scale, to_array
from app.serving.runtimes.loading import runtime_loader
from app.serving.versions import load_version
from app.store.manifest import Manifest
from app.store.registry import Registry
from app.training.importer import ImportRequest, import_model
from tests.preprocessing.images import encode, pattern, smooth
from tests.training.foreign_models import CLASSES, SIZE, exported, images, means, network, saved

Import = Callable[..., tuple[Manifest, Path]]
LABELS = ["ant", "bee", "cat"]


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


@pytest.fixture
def import_(registry: Registry) -> Import:
    """Import with fields of a request; returns the manifest and folder of what became of it."""

    def import_(source: Path, **fields: Any) -> tuple[Manifest, Path]:
        request = ImportRequest.model_validate({"source": source, "model": "insects", **fields})
        version = import_model(request, registry)
        return registry.verify("insects", version), registry.folder("insects", version)

    return import_


def _golden(folder: Path) -> tuple[UInt8Array, Float32Array]:
    with np.load(folder / "golden" / "expected.npz") as expected:
        return expected["images"], expected["probabilities"]


def _answers(registry: Registry, engine: str, batch: UInt8Array) -> Float32Array:
    """What a server with this engine answers with version 1, which passes the checks of loading."""
    loaded = load_version(registry, "insects", 1, load_runtime=runtime_loader(engine), threads=1, metrics=Metrics())
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
    """Whatever scaling a float model was trained with, served it gives what Keras gives, in either engine."""
    model = network()
    source = exported(model, tmp_path / "export") if kind == "SavedModel" else tmp_path / "model.keras"
    if kind == ".keras":
        model.save(source)
    manifest, folder = import_(source, labels=LABELS, scaling=scaling)
    batch, probabilities = _golden(folder)
    expected = model(scale(batch, manifest.preprocessing).astype(np.float32), training=False).numpy()
    assert np.abs(probabilities - expected).max() < 1e-5
    assert np.ptp(probabilities, axis=0).max() > 1e-3
    for engine in ("openvino", "tensorflow"):
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


# What is refused


def _dense(folder: Path) -> Path:
    return exported(keras.Sequential([keras.Input((10,)), keras.layers.Dense(3, "softmax")]), folder)


def _nan(folder: Path) -> Path:
    return saved(lambda image: means(image) * float("nan"), folder, images())


def _two_inputs(folder: Path) -> Path:
    return saved(lambda a, b: means(a) + means(b), folder, images(), tf.TensorSpec((None, SIZE, SIZE, 3), name="b"))


def _over_the_batch(folder: Path) -> Path:
    return saved(lambda image: means(image) - tf.reduce_mean(means(image), axis=0), folder, images())


def _no_signature(folder: Path) -> Path:
    tf.saved_model.save(tf.Module(), str(folder))
    return folder


def _several_signatures(folder: Path) -> Path:
    module = tf.Module()
    module.function = tf.function(means, input_signature=[images()])
    tf.saved_model.save(module, str(folder), signatures={"one": module.function, "two": module.function})
    return folder


NOT_IMPORTED: dict[str, tuple[Callable[[Path], Path], str]] = {
    "not of images": (_dense, r"shape \[any, 10\]; an image classifier takes \[batch, height"),
    "two inputs": (_two_inputs, r"2 inputs \(b, image\); an image classifier has one"),
    "two outputs": (
        lambda folder: saved(lambda image: {"a": means(image), "b": means(image)}, folder, images()),
        r"2 outputs \(a, b\)",
    ),
    "an image as output": (lambda folder: saved(lambda image: image * 2, folder, images()), r"\[batch, classes\]"),
    "one number": (lambda folder: saved(lambda image: means(image)[:, :1], folder, images()), "two or more classes"),
    "words": (lambda folder: saved(lambda image: tf.as_string(means(image)), folder, images()), "numbers, one for"),
    "several classes an image": (
        lambda folder: saved(lambda image: tf.sigmoid(means(image)), folder, images()),
        "sigmoid",
    ),
    "not finite": (_nan, "not finite"),
    "a fixed batch": (lambda folder: saved(means, folder, images(2, SIZE, SIZE, 3)), "batches of 2 only"),
    "answers that depend on the batch": (_over_the_batch, "others are in the batch"),
    "channels first": (lambda folder: saved(means, folder, images(None, 3, SIZE, SIZE)), "channels first"),
    "five channels": (lambda folder: saved(means, folder, images(None, SIZE, SIZE, 5)), "5 channels"),
    "integers": (lambda folder: saved(means, folder, images(dtype=tf.int32)), "dtype int32; uint8 and float32"),
    "no signature": (_no_signature, "no signature"),
    "several signatures": (_several_signatures, "signatures one, two; one of them must be called serving_default"),
}


@pytest.mark.parametrize("case", NOT_IMPORTED)
def test_what_is_no_image_classifier_is_refused(case: str, import_: Import, registry: Registry, tmp_path: Path) -> None:
    """Each is refused in a sentence that says why, and nothing is left in the store."""
    build, reason = NOT_IMPORTED[case]
    source = build(tmp_path / "m")
    with pytest.raises(Exception, match=reason) as caught:
        import_(source, scaling="in_model")
    assert type(caught.value).__name__ == "InvalidRequest"
    assert registry.models() == []


WRONG_REQUESTS: list[tuple[dict[str, Any], str]] = [
    ({"labels": ["a", "b"]}, "has 3 classes, but 2 labels"),
    ({"labels": ["a", "b", "a"]}, "given twice: a"),
    ({"scaling": None}, "Say the scaling that it was trained with"),
    ({"height": 99}, f"has height {SIZE}, but 99"),
    ({"width": 99}, f"has width {SIZE}, but 99"),
    ({"color": "grayscale"}, "number of channels 3, but 1"),
    ({"images": ["missing.png"]}, r"missing.png cannot be read: No such file"),
    ({"images": [__file__]}, r"test_importer.py cannot be a golden example: Not an image"),
]


@pytest.mark.parametrize(("fields", "reason"), WRONG_REQUESTS)
def test_requests_that_do_not_fit_the_model_are_refused(
    fields: dict[str, Any], reason: str, import_: Import, registry: Registry, tmp_path: Path
) -> None:
    """What is said of a model must be true of it."""
    source = saved(means, tmp_path / "m", images())
    with pytest.raises(Exception, match=reason):
        import_(source, **{"scaling": "in_model", **fields})
    assert registry.models() == []


def test_a_scaling_for_uint8_is_refused(import_: Import, tmp_path: Path) -> None:
    """It would be passed over in silence."""
    source = saved(means, tmp_path / "m", images(dtype=tf.uint8))
    with pytest.raises(Exception, match="takes uint8, which it scales by itself"):
        import_(source, scaling="0..1")


def test_files_with_code_of_their_own_are_refused(import_: Import, tmp_path: Path) -> None:
    """A .keras file is data; one that carries Python code is not loaded."""
    image = keras.Input((SIZE, SIZE, 3))
    code = keras.layers.Lambda(lambda x: x + 1, output_shape=(SIZE, SIZE, 3))
    model = keras.Model(image, keras.layers.Dense(3)(keras.layers.Flatten()(code(image))))
    model.save(tmp_path / "model.keras")
    with pytest.raises(Exception, match=r"Keras cannot load model.keras: .*model.export\('folder'\)"):
        import_(tmp_path / "model.keras", scaling="in_model")


def test_damaged_and_foreign_files_are_refused(import_: Import, tmp_path: Path) -> None:
    """Each with what it is, or is not."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "saved_model.pb").write_bytes(b"no protocol buffer")
    (tmp_path / "model.keras").write_bytes(b"no archive")
    (tmp_path / "model.h5").write_bytes(b"\x89HDF")
    reasons = {
        "empty": "no file saved_model.pb",
        "broken": "TensorFlow cannot load the SavedModel broken",
        "model.keras": "Keras cannot load model.keras",
        "model.h5": "neither a SavedModel folder nor a .keras file",
        "nowhere": "There is nothing at",
    }
    for name, reason in reasons.items():
        with pytest.raises(Exception, match=reason):
            import_(tmp_path / name, scaling="in_model")


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
    """One sentence on the standard error, exit status 1, and no traceback; also when nothing needs TensorFlow."""
    cases = [
        ({"source": "m", "model": "../evil"}, "model: "),
        ({"source": "m", "model": "a", "colour": "rgb"}, "colour: Extra inputs are not permitted."),
        ({"source": "m", "model": "a", "labels": ["one"]}, "labels: "),
        ([], "The request is not valid: "),
    ]
    for request, reason in cases:
        done = _command(request, tmp_path)
        assert (done.returncode, done.stdout) == (1, "")
        assert reason in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_the_command_without_its_file_says_so(tmp_path: Path) -> None:
    """A file that is not there is named as such."""
    done = _command({}, tmp_path, [str(tmp_path / "nothing.json")])
    assert done.returncode == 1
    assert "No such file" in done.stderr.splitlines()[-1]
