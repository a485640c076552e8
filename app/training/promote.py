"""Whether a new version goes live."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from app.errors import VersionRefused
from app.jobs.spec import TrainingSpec
from app.preprocessing import Float32Array, scale, to_array
from app.store.registry import Registry
from app.training.dataset import TrainingData

_BATCH = 256


def promote(
    registry: Registry, spec: TrainingSpec, version: int, data: TrainingData, job_id: str, *, max_pixels: int
) -> tuple[bool, str]:
    """Apply the spec's promotion policy; returns whether the version was promoted, and why or why not."""
    promoted, reason = _decide(registry, spec, version, data, max_pixels)
    if promoted:
        registry.promote(spec.model_name, version, by=f"training job {job_id}", reason=reason)
    return promoted, reason


def _decide(
    registry: Registry, spec: TrainingSpec, version: int, data: TrainingData, max_pixels: int
) -> tuple[bool, str]:
    model = spec.model_name
    production = registry.production(model)
    if spec.promotion == "manual":
        return False, "registered, not promoted: the policy is manual"
    if spec.promotion == "always":
        return True, "policy: always"
    if production is None:
        return True, "policy: if_better; there is no production version to beat"
    if production.version == version:
        return True, "already in production"
    try:
        theirs = _accuracy(registry, model, production.version, data, max_pixels)
    except VersionRefused as error:
        return True, f"policy: if_better; production version {production.version} cannot be used: {error}"
    # Whatever else keeps TensorFlow from running the old version, the new one is registered and the job is done.
    except Exception as error:
        return False, (
            f"not promoted: production version {production.version} could not be run to compare with "
            f"({type(error).__name__}: {str(error)[:200]}); promote by hand"
        )
    if theirs is None:
        return False, (
            f"not promoted: production version {production.version} knows other classes, so that the two cannot be "
            "compared; promote by hand"
        )
    ours = registry.manifest(model, version).metrics["accuracy"]
    numbers = f"accuracy {ours:.4f} against {theirs:.4f} of production version {production.version}"
    numbers += f" on the same {len(data.test):,} test images"
    return (True, f"policy: if_better; {numbers}") if ours >= theirs else (False, f"not promoted: {numbers}")


def _accuracy(registry: Registry, model: str, version: int, data: TrainingData, max_pixels: int) -> float | None:
    """Accuracy of another version on this job's test images, each preprocessed its own way; None: other classes."""
    manifest = registry.verify(model, version)
    if sorted(manifest.labels) != sorted(data.labels):
        return None
    served = tf.saved_model.load(str(registry.folder(model, version))).signatures["serving_default"]
    targets = np.array([manifest.labels.index(data.labels[target]) for target in data.targets[data.test]])
    correct = 0
    for start in range(0, len(data.test), _BATCH):
        chosen = data.test[start : start + _BATCH]
        encoded = [data.source.read(int(number)) for number in chosen]
        images = np.stack([to_array(image, manifest.preprocessing, max_pixels=max_pixels) for image in encoded])
        inputs = scale(images, manifest.preprocessing).astype(manifest.input.dtype)
        outputs: Float32Array = served(**{manifest.input.name: tf.constant(inputs)})[manifest.output.name].numpy()
        correct += int((outputs.argmax(axis=1) == targets[start : start + _BATCH]).sum())
    return correct / len(data.test)
