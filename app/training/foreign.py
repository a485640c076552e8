"""Classifiers that were made elsewhere: SavedModel folders and `.keras` files.

A SavedModel is a program. Whatever is opened here runs with the rights of the one who imports it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from app.errors import InvalidRequest
from app.preprocessing import Float32Array, UInt8Array

SIGNATURE = "serving_default"

# What makes up a SavedModel; other things in its folder stay behind.
_PARTS = ("saved_model.pb", "variables", "assets", "assets.extra", "fingerprint.pb", "keras_metadata.pb")

# Layers that bring pixels of 0 to 255 to a network's own range.
_RESCALING = (keras.layers.Rescaling, keras.layers.Normalization)


@dataclass(frozen=True)
class ImageInput:
    """The one input of a classifier: [n, height, width, channels], None for what is left open."""

    name: str
    dtype: Literal["uint8", "float32"]
    height: int | None
    width: int | None
    channels: int | None


@dataclass(frozen=True)
class ForeignModel:
    """An image classifier of somebody else's making."""

    input: ImageInput
    output_name: str
    """Name of the output; a `.keras` file has none yet, and `save` gives it one."""
    rescales: bool
    """Whether it is known to scale pixels of 0 to 255 by itself. A SavedModel does not tell."""
    run: Callable[[UInt8Array | Float32Array], Float32Array]
    """Images [n, height, width, channels] in the input's dtype to the output as it is, as float32."""
    save: Callable[[Path, tuple[int, int, int], str], None]
    """Write it as a SavedModel with the signature `serving_default` into an existing, empty folder;
    takes the shape of one image and the output's name."""


def open_model(source: Path) -> ForeignModel:
    """Open a SavedModel folder or a `.keras` file.

    Raises:
        InvalidRequest: neither of them, unreadable, or no image classifier; with the reason.
    """
    if source.is_dir():
        return _open_saved_model(source)
    if source.is_file() and source.suffix == ".keras":
        return _open_keras(source)
    if not source.exists():
        raise InvalidRequest(f"There is nothing at {source}.")
    raise InvalidRequest(
        f"{source.name} is neither a SavedModel folder nor a .keras file. "
        "Load it where it was made, and save it with model.export('folder') or model.save('file.keras')."
    )


# SavedModel folders


def _open_saved_model(folder: Path) -> ForeignModel:
    if not (folder / "saved_model.pb").is_file():
        raise InvalidRequest(f"{folder.name} is no SavedModel: it has no file saved_model.pb.")
    try:
        loaded = tf.saved_model.load(str(folder))
    # The loader raises whatever a broken or foreign graph runs it into.
    except Exception as error:
        raise InvalidRequest(f"TensorFlow cannot load the SavedModel {folder.name}: {first_line(error)}.") from error
    name = _signature_name(list(loaded.signatures))
    function = loaded.signatures[name]
    inputs: dict[str, Any] = function.structured_input_signature[1]
    outputs: dict[str, Any] = function.structured_outputs
    argument, spec = _only(inputs, "inputs")
    output, _ = _only(outputs, "outputs")
    image = _image_input(argument, spec.dtype.name, _dimensions(spec.shape))

    def run(images: UInt8Array | Float32Array) -> Float32Array:
        return _numbers(lambda: function(**{argument: tf.constant(images, spec.dtype)})[output])

    def save(target: Path, _shape: tuple[int, int, int], _output: str) -> None:
        if name == SIGNATURE:
            _copy_saved_model(folder, target)
        else:
            tf.saved_model.save(loaded, str(target), signatures={SIGNATURE: function})

    return ForeignModel(image, output, rescales=False, run=run, save=save)


def _signature_name(names: list[str]) -> str:
    if SIGNATURE in names:
        return SIGNATURE
    if len(names) == 1:
        return names[0]
    if names:
        raise InvalidRequest(
            f"The SavedModel has the signatures {', '.join(sorted(names))}; one of them must be called {SIGNATURE}."
        )
    raise InvalidRequest(
        f"The SavedModel has no signature. Save it with model.export('folder'), "
        f"or with tf.saved_model.save(…, signatures={{'{SIGNATURE}': function}})."
    )


def _copy_saved_model(source: Path, target: Path) -> None:
    for part in _PARTS:
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part)
        elif (source / part).is_file():
            shutil.copyfile(source / part, target / part)


# .keras files


def _open_keras(file: Path) -> ForeignModel:
    try:
        # Safe mode refuses layers that carry Python code.
        model = keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:
        raise InvalidRequest(
            f"Keras cannot load {file.name}: {first_line(error)}. Files with code of their own (Lambda layers, custom "
            "classes) must be exported where they were made, with model.export('folder'); then import that folder."
        ) from error
    if getattr(model, "inputs", None) is None:
        raise InvalidRequest(f"The model in {file.name} was never built, so that its input is not known. Call it once.")
    _, tensor = _only({str(number): tensor for number, tensor in enumerate(model.inputs)}, "inputs")
    _only({str(number): tensor for number, tensor in enumerate(model.outputs)}, "outputs")
    image = _image_input("image", keras.backend.standardize_dtype(tensor.dtype), tuple(tensor.shape))

    def forward(images: Any) -> Any:
        return tf.cast(model(images, training=False), tf.float32)

    def run(images: UInt8Array | Float32Array) -> Float32Array:
        return _numbers(lambda: forward(tf.constant(images, image.dtype)))

    def save(target: Path, shape: tuple[int, int, int], output: str) -> None:
        archive = keras.export.ExportArchive()
        archive.track(model)
        spec = tf.TensorSpec((None, *shape), image.dtype, name=image.name)
        archive.add_endpoint("serve", lambda image: {output: forward(image)}, [spec])
        archive.write_out(str(target), verbose=False)

    rescales = any(isinstance(layer, _RESCALING) for layer in model._flatten_layers())
    return ForeignModel(image, "", rescales=rescales, run=run, save=save)


# Both


def _only(tensors: dict[str, Any], what: str) -> tuple[str, Any]:
    if len(tensors) != 1:
        names = ", ".join(sorted(tensors)) or "none"
        raise InvalidRequest(f"The model has {len(tensors)} {what} ({names}); an image classifier has one.")
    return next(iter(tensors.items()))


def _dimensions(shape: Any) -> tuple[int | None, ...]:
    """Sizes of a TensorShape; one of unknown rank is taken for a batch of images."""
    return (None,) * 4 if shape.rank is None else tuple(shape.as_list())


def _image_input(name: str, dtype: str, dimensions: tuple[int | None, ...]) -> ImageInput:
    """Check that an input takes batches of images.

    Raises:
        InvalidRequest: it takes something else.
    """
    shown = "[" + ", ".join("any" if size is None else str(size) for size in dimensions) + "]"
    if dtype not in ("uint8", "float32"):
        raise InvalidRequest(f"The model's input has dtype {dtype}; uint8 and float32 are supported.")
    if len(dimensions) != 4:
        raise InvalidRequest(
            f"The model's input has shape {shown}; an image classifier takes [batch, height, width, channels]."
        )
    batch, height, width, channels = dimensions
    if batch is not None:
        raise InvalidRequest(
            f"The model takes batches of {batch} only. Export it again with None for the size of the batch."
        )
    if channels not in (None, 1, 3):
        reason = "has its channels first; channels last" if height in (1, 3) else f"has {channels} channels; 1 or 3"
        raise InvalidRequest(f"The model's input of shape {shown} {reason} can be imported.")
    kind: Literal["uint8", "float32"] = "uint8" if dtype == "uint8" else "float32"
    return ImageInput(name, kind, height, width, channels)


def _numbers(compute: Callable[[], Any]) -> Float32Array:
    try:
        values: npt.NDArray[Any] = compute().numpy()
    # Errors of the graph have no common base below Exception.
    except Exception as error:
        raise InvalidRequest(f"The model fails on images of its input's shape: {first_line(error)}.") from error
    if values.dtype.kind not in "fiu":
        raise InvalidRequest(f"The model answers with {values.dtype}; numbers, one for each class, are needed.")
    return values.astype(np.float32)


def first_line(error: Exception) -> str:
    """The first line of an error's message, fit to stand within a sentence."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).strip().rstrip(".")[:300]
