"""What cannot be imported is refused in a sentence, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
import tensorflow as tf

from app.store.registry import Registry
from tests.training.importing.conftest import Import
from tests.training.importing.foreign_models import SIZE, exported, images, means, saved


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
    ({"images": [__file__]}, r"test_refusals.py cannot be a golden example: Not an image"),
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
