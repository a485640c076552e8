"""From a trained network to a version in the store."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import app
from app.errors import ModelNotFound, VersionRefused
from app.jobs.folder import now
from app.jobs.spec import TrainingSpec
from app.preprocessing import Float32Array, Preprocessing, UInt8Array, to_array
from app.store.manifest import Manifest, PixelScaling, PrecisionCheck, TensorSpec
from app.store.registry import Registry
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation
from app.training.fit import Fitted
from app.training.golden import write_golden
from app.training.litert import write_litert
from app.training.membership import write_trained_on
from app.training.quantization import Int8Network

# Golden examples of a version: enough to meet every class of a usual model, few enough to replay in no time.
_GOLDEN = 8


def export(
    model: keras.Model, preprocessing: Preprocessing, classes: int, folder: Path
) -> tuple[TensorSpec, TensorSpec]:
    """Write a SavedModel that takes uint8 `image` and answers float32 `probabilities`; scaling and softmax are inside.

    Returns the specs of its input [n, height, width, channels] and output [n, classes].
    """

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec((None, *preprocessing.shape), tf.uint8, name="image")]
    )
    def serving_default(image: Any) -> dict[str, Any]:
        return {"probabilities": model(tf.cast(image, tf.float32), training=False)}

    module = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    module.serving_default = serving_default
    options = tf.saved_model.SaveOptions(experimental_image_format=False)
    tf.saved_model.save(module, str(folder), signatures={"serving_default": serving_default}, options=options)
    return (
        TensorSpec(name="image", dtype="uint8", shape=(-1, *preprocessing.shape)),
        TensorSpec(name="probabilities", dtype="float32", shape=(-1, classes)),
    )


def register(
    registry: Registry,
    staged: Path,
    job_id: str,
    spec: TrainingSpec,
    data: TrainingData,
    fitted: Fitted,
    evaluation: Evaluation,
    precisions: dict[str, PrecisionCheck],
    int8: Int8Network | None = None,
) -> int:
    """Export into `staged`, add golden examples and the manifest, and register; returns the version.

    `int8`: stored beside the SavedModel, to be served where the processor gains by it.
    """
    input_spec, output_spec = export(fitted.model, data.preprocessing, len(data.labels), staged)
    if int8 is not None:
        int8.write(staged)
    write_trained_on(staged, data)
    served = tf.saved_model.load(str(staged)).signatures["serving_default"]

    def answer(images: UInt8Array) -> Float32Array:
        return np.asarray(served(image=tf.constant(images))["probabilities"])

    examples = _golden(data)
    golden = write_golden(staged, examples, data.preprocessing, answer)
    images = np.stack([to_array(encoded, data.preprocessing) for _, encoded in examples])
    write_litert(staged, images, answer(images), tolerance=golden.allowed("f32"))
    production = registry.production(spec.model_name)
    best = fitted.history[fitted.best_epoch - 1]
    manifest = Manifest(
        model=spec.model_name,
        labels=data.labels,
        preprocessing=data.preprocessing,
        input=input_spec,
        output=output_spec,
        golden=golden,
        metrics={
            "accuracy": evaluation.accuracy,
            "accuracy_low": evaluation.interval.low,
            "accuracy_high": evaluation.interval.high,
            "loss": evaluation.loss,
            "validation_accuracy": best.val_accuracy,
            "epochs": float(len(fitted.history)),
            "parameters": float(fitted.model.count_params()),
        },
        precisions=precisions,
        calibration=evaluation.calibration,
        unknown=evaluation.unknown,
        data=data.fingerprint(),
        training_spec=fitted.recipe.model_dump(mode="json"),
        normalization=PixelScaling(mean=fitted.normalization.mean, deviation=fitted.normalization.deviation),
        parent=production.version if production else None,
        created_at=now(),
        created_by=_author(job_id),
        software={
            "fovea": app.__version__,
            "python": platform.python_version(),
            **{package: installed(package) for package in ("keras", "numpy", "pillow")},
            "tensorflow": tf.__version__,
        },
    )
    return registry.register(staged, manifest)


def find_version(registry: Registry, model: str, job_id: str) -> int | None:
    """The version that an earlier attempt of the same job registered before it died, if it did."""
    try:
        versions = registry.versions(model)
    except ModelNotFound:
        return None
    for version in reversed(versions):
        # A damaged version is none of this job's concern.
        with suppress(VersionRefused):
            if registry.manifest(model, version).created_by == _author(job_id):
                return version
    return None


def _author(job_id: str) -> str:
    return f"training job {job_id}"


def golden_rows(data: TrainingData) -> list[int]:
    """Which images of the test split are golden examples: of different classes."""
    targets = data.targets[data.test]
    first = [int(np.flatnonzero(targets == number)[0]) for number in range(len(data.labels))]
    return first if len(first) <= _GOLDEN else [first[i] for i in np.linspace(0, len(first) - 1, _GOLDEN).astype(int)]


def _golden(data: TrainingData) -> list[tuple[str, bytes]]:
    """The golden examples as they were uploaded."""
    chosen = []
    for number, row in enumerate(golden_rows(data)):
        position = int(data.test[row])
        suffix = Path(data.source.names[position]).suffix.lower()
        chosen.append((f"{number:02d}{suffix if suffix.isascii() else ''}", data.source.read(position)))
    return chosen
