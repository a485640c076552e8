"""`python -m app.training.importer REQUEST.json`: make a model from elsewhere a version in the store.

Prints one line of JSON, {"model", "version"}, and exits with 0; or writes one sentence that says what is
wrong and what to do to the standard error, and exits with 2 where the request or the model is at fault, else with 1.
The store is `FOVEA_MODEL_STORE`.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from PIL import Image
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

import app
from app.asked import first_complaint
from app.errors import FoveaError, InvalidImage, InvalidRequest
from app.names import check_name
from app.preprocessing import (
    Float32Array,
    Preprocessing,
    UInt8Array,
    ignore_decoder_warnings,
    scale,
    to_array,
)
from app.settings import Settings
from app.store.manifest import Manifest, TensorSpec
from app.store.registry import Registry
from app.training.golden import write_golden

if TYPE_CHECKING:
    from app.training.foreign import ForeignModel, ImageInput

# How far answers may move with the size of the batch that an image is in.
_BATCH_TOLERANCE = 1e-3


class ImportRequest(BaseModel):
    """What to import, and what its files do not tell."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Path = Field(description="A SavedModel folder or a .keras file.")
    model: Annotated[str, AfterValidator(partial(check_name, what="model"))] = Field(
        description="Name of the model that gets the version."
    )
    labels: list[str] | None = Field(
        None, min_length=2, description="Class names in the order of the output; null: their numbers."
    )
    height: int | None = Field(None, ge=1, le=4096, description="Rows of the input; null: as the model says.")
    width: int | None = Field(None, ge=1, le=4096, description="Columns of the input; null: as the model says.")
    color: Literal["rgb", "grayscale"] | None = Field(None, description="null: as the model's channels say.")
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = "bilinear"
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    scaling: Literal["in_model", "0..1", "-1..1", "imagenet", "caffe"] | None = Field(
        None,
        description="What a model with float32 input expects its pixels to be; `in_model`: 0 to 255. "
        "null: `in_model` if the model is known to scale by itself, else an error.",
    )
    images: list[Path] = Field(
        default_factory=list, max_length=32, description="Images for the golden examples; none: synthetic ones."
    )


def import_model(request: ImportRequest, registry: Registry) -> int:
    """Check a model, compute its golden examples and register it; returns its version.

    Raises:
        InvalidRequest: it is no image classifier, or what was said of it does not fit.
        StorageFailed: the store cannot be written.
    """
    # TensorFlow takes seconds to load; what is wrong with a request shows before.
    import tensorflow as tf

    from app.training.foreign import open_model
    from app.training.litert import write_litert

    model = open_model(request.source)
    preprocessing = _preprocessing(request, model)
    examples = _examples(request, preprocessing)
    images = np.stack([to_array(data, preprocessing) for _, data in examples])
    scores = model.run(scale(images, preprocessing))
    activation = _activation(scores, len(images))
    _check_batches(model, scale(images[:1], preprocessing), scores[:1])
    labels = _labels(request, scores.shape[1])
    with registry.staging() as staged:
        model.save(staged, preprocessing.shape, "probabilities" if activation == "none" else "logits")
        # The golden examples are those of what is stored, not of what it was made from.
        stored = open_model(staged)
        probabilities = _unchanged if activation == "none" else _softmax

        def answer(batch: UInt8Array) -> Float32Array:
            return probabilities(stored.run(scale(batch, preprocessing)))

        golden = write_golden(staged, examples, preprocessing, answer)
        write_litert(
            staged,
            scale(images, preprocessing),
            answer(images),
            tolerance=golden.allowed("f32"),
            probabilities=probabilities,
        )
        manifest = Manifest(
            model=request.model,
            labels=labels,
            preprocessing=preprocessing,
            input=TensorSpec(name=stored.input.name, dtype=stored.input.dtype, shape=(-1, *preprocessing.shape)),
            output=TensorSpec(name=stored.output_name, dtype="float32", shape=(-1, len(labels))),
            activation=activation,
            golden=golden,
            created_at=datetime.now(UTC),
            created_by=f"import of {request.source.name}",
            software={
                "fovea": app.__version__,
                "python": platform.python_version(),
                **{package: installed(package) for package in ("keras", "numpy", "pillow")},
                "tensorflow": tf.__version__,
            },
        )
        return registry.register(staged, manifest)


# What goes in


def _preprocessing(request: ImportRequest, model: ForeignModel) -> Preprocessing:
    """Bring together what the request and the model say of the input."""
    channels = {None: None, "rgb": 3, "grayscale": 1}[request.color]
    fields: dict[str, Any] = {
        "height": _agreed("height", request.height, model.input.height),
        "width": _agreed("width", request.width, model.input.width),
        "color": "grayscale" if _agreed("number of channels", channels, model.input.channels, 3) == 1 else "rgb",
        "resample": request.resample,
        "fit": request.fit,
        "scaling": _scaling(request, model.input, rescales=model.rescales),
    }
    try:
        return Preprocessing.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(f"{first_complaint(error)}.") from error


def _agreed(what: str, asked: int | None, fixed: int | None, default: int | None = None) -> int:
    if asked is not None and fixed is not None and asked != fixed:
        raise InvalidRequest(f"The model's input has {what} {fixed}, but {asked} was asked for. Leave it out.")
    for value in (asked, fixed, default):
        if value is not None:
            return value
    raise InvalidRequest(f"The model takes images of any {what}; say which {what} it shall get.")


def _scaling(request: ImportRequest, image: ImageInput, *, rescales: bool) -> str:
    if image.dtype == "uint8":
        if request.scaling not in (None, "in_model"):
            raise InvalidRequest(
                f"The model takes uint8, which it scales by itself; scaling {request.scaling!r} cannot apply. "
                "Leave it out."
            )
        return "in_model"
    if request.scaling is not None:
        return request.scaling
    if rescales:
        return "in_model"
    raise InvalidRequest(
        "The model takes float32, and does not tell of which range. Say the scaling that it was trained with: "
        "0..1, -1..1, imagenet, caffe, or in_model if it takes 0 to 255 and scales by itself."
    )


# What comes out


def _activation(scores: Float32Array, count: int) -> Literal["none", "softmax"]:
    """What makes probabilities of a model's output [n, classes].

    Raises:
        InvalidRequest: it is no output of a classifier with one class an image.
    """
    if scores.ndim != 2 or len(scores) != count:
        raise InvalidRequest(
            f"The model answers {count} images with shape {list(scores.shape)}; "
            "an image classifier answers with [batch, classes]."
        )
    if scores.shape[1] < 2:
        raise InvalidRequest(
            "The model answers with one number an image; one for each of two or more classes is needed."
        )
    if not np.isfinite(scores).all():
        raise InvalidRequest(
            "The model answers with numbers that are not finite. Are its weights sound, and its scaling?"
        )
    if (scores < 0).any() or (scores > 1 + 1e-3).any():
        return "softmax"
    if np.allclose(scores.sum(axis=1), 1, atol=1e-3):
        return "none"
    raise InvalidRequest(
        "The model answers with numbers from 0 to 1 that do not sum to 1, as models do that may see several classes "
        "in an image (sigmoid). Only one class an image is supported: softmax, or logits."
    )


def _check_batches(model: ForeignModel, first: UInt8Array | Float32Array, expected: Float32Array) -> None:
    alone = model.run(first)
    allowed = _BATCH_TOLERANCE * max(1, np.abs(expected).max())
    if alone.shape != expected.shape or np.abs(alone - expected).max() > allowed:
        raise InvalidRequest(
            "The model answers an image differently when others are in the batch. Export it for inference "
            "(training=False), with None for the size of the batch."
        )


def _unchanged(scores: Float32Array) -> Float32Array:
    return scores


def _softmax(logits: Float32Array) -> Float32Array:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True), np.float32)


def _labels(request: ImportRequest, classes: int) -> list[str]:
    if request.labels is None:
        return [str(number) for number in range(classes)]
    if len(request.labels) != classes:
        raise InvalidRequest(f"The model has {classes} classes, but {len(request.labels)} labels were given.")
    if twins := {label for label in request.labels if request.labels.count(label) > 1}:
        raise InvalidRequest(f"Labels must differ; these are given twice: {', '.join(sorted(twins)[:5])}.")
    return request.labels


# Golden examples


def _examples(request: ImportRequest, preprocessing: Preprocessing) -> list[tuple[str, bytes]]:
    if not request.images:
        return _synthetic(preprocessing.height, preprocessing.width)
    examples = []
    for number, path in enumerate(request.images):
        try:
            data = path.read_bytes()
            to_array(data, preprocessing)
        except OSError as error:
            raise InvalidRequest(f"The image {path} cannot be read: {error.strerror}.") from error
        except InvalidImage as error:
            raise InvalidRequest(f"The image {path.name} cannot be a golden example: {error}") from error
        suffix = path.suffix.lower()
        examples.append((f"{number:02d}{suffix if suffix.isascii() else ''}", data))
    return examples


def _synthetic(height: int, width: int) -> list[tuple[str, bytes]]:
    """Images that say nothing, but that move a network: slopes, waves, blocks and noise, the same each time."""
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (8, 8, 3), np.uint8)
    pictures = {
        "slopes.png": np.stack([255 * x, 255 * y, 255 * (1 - x) * (1 - y)], axis=-1),
        "waves.jpg": 127.5 + 127.5 * np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y), np.sin(20 * x * y)], axis=-1),
        "blocks.png": blocks[(y * 7.99).astype(int), (x * 7.99).astype(int)],
        "noise.png": random.integers(0, 256, (height, width, 3)),
    }
    examples = []
    for name, picture in pictures.items():
        file = io.BytesIO()
        Image.fromarray(picture.astype(np.uint8)).save(file, "JPEG" if name.endswith(".jpg") else "PNG")
        examples.append((name, file.getvalue()))
    return examples


# The command


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("usage: python -m app.training.importer REQUEST.json", file=sys.stderr)
        return 2
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # The golden examples are those of a processor, where most versions are served.
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    ignore_decoder_warnings()
    try:
        request = ImportRequest.model_validate_json(Path(arguments[0]).read_bytes())
        # Libraries print to the standard output, which is for the answer alone.
        with contextlib.redirect_stdout(sys.stderr):
            version = import_model(request, Registry(Settings().model_store))
    except FoveaError as error:
        print(str(error), file=sys.stderr)
        return 2 if isinstance(error, InvalidRequest) else 1
    except ValidationError as error:
        print(f"The request is not valid: {first_complaint(error)}.", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"The system refused: {error.strerror or error}.", file=sys.stderr)
        return 1
    print(json.dumps({"model": request.model, "version": version}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
