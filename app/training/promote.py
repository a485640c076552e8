"""Whether a new version goes live."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from app.errors import Conflict, VersionRefused
from app.jobs.spec import TrainingSpec
from app.preprocessing import Float32Array, scale, to_array
from app.store.manifest import Manifest, Promotion, PromotionDecision
from app.store.registry import Registry
from app.training.batches import answered_at_once
from app.training.comparison import Right, Rule, compare, explain
from app.training.dataset import TrainingData
from app.training.membership import among, read_trained_on
from app.training.splits import Indices

# Fewer images that both versions are strangers to are no comparison.
_LEAST = 10

# How often a comparison is made anew because somebody else promoted meanwhile.
_TRIES = 3


@dataclass(frozen=True)
class Outcome:
    """Whether the version was promoted, why or why not, and the comparison that says so if one was made."""

    promoted: bool
    reason: str
    decision: PromotionDecision | None = None


def promote(
    registry: Registry, spec: TrainingSpec, version: int, data: TrainingData, job_id: str, *, max_pixels: int
) -> Outcome:
    """Apply the spec's promotion policy; what it lets through is promoted, and what not noted in the log."""
    model, by = spec.model_name, f"training job {job_id}"
    if spec.promotion == "manual":
        return Outcome(False, "registered, not promoted: the policy is manual")
    if spec.promotion == "always":
        always = Outcome(True, "policy: always")
        registry.promote(model, version, by=by, reason=always.reason)
        return always
    for _ in range(_TRIES):
        production = registry.production(model)
        outcome = _decide(registry, spec, version, production, data, max_pixels)
        after = production.sequence if production else 0
        if not outcome.promoted:
            registry.refuse(model, version, after=after, by=by, reason=outcome.reason, decision=outcome.decision)
            return outcome
        try:
            registry.promote(model, version, by=by, reason=outcome.reason, decision=outcome.decision, after=after)
        except Conflict:
            continue
        return outcome
    return Outcome(False, "not promoted: others promoted all the while that it was compared; promote by hand")


def _decide(
    registry: Registry,
    spec: TrainingSpec,
    version: int,
    production: Promotion | None,
    data: TrainingData,
    max_pixels: int,
) -> Outcome:
    """Whether `if_better` lets a version through where `production` is the log's last entry."""
    model = spec.model_name
    if production is None:
        return Outcome(True, "policy: if_better; there is no production version to beat")
    if production.version == version:
        return Outcome(True, "already in production", production.decision)
    try:
        manifest = registry.verify(model, production.version)
    except VersionRefused as error:
        return Outcome(True, f"policy: if_better; production version {production.version} cannot be used: {error}")
    try:
        decision = _compare(registry, spec, version, production.version, manifest, data, max_pixels)
    except _Incomparable as error:
        return Outcome(False, f"not promoted: {error}; promote by hand")
    # Whatever else keeps TensorFlow from running the old version, the new one is registered and the job is done.
    except Exception as error:
        return Outcome(
            False,
            f"not promoted: it could not be compared with production version {production.version} "
            f"({type(error).__name__}: {str(error)[:200]}); promote by hand",
        )
    said = explain(decision)
    if decision.promotes:
        return Outcome(True, f"policy: if_better; {said}", decision)
    return Outcome(False, f"not promoted: {said}", decision)


class _Incomparable(Exception):
    """Why two versions cannot be compared on this job's test images."""


def _compare(
    registry: Registry,
    spec: TrainingSpec,
    version: int,
    production: int,
    manifest: Manifest,
    data: TrainingData,
    max_pixels: int,
) -> PromotionDecision:
    """Let both versions answer the test images that production, whose `manifest` it is, was not trained on.

    Raises:
        _Incomparable: there are no images that would be fair to both, or the classes differ.
    """
    model = spec.model_name
    if sorted(manifest.labels) != sorted(data.labels):
        raise _Incomparable(f"production version {production} knows other classes, so that the two cannot be compared")
    learned = read_trained_on(registry.folder(model, production))
    if learned is None and manifest.data is not None:
        raise _Incomparable(
            f"production version {production} does not say which images it was trained on, and these test images may "
            "be among them"
        )
    positions = data.test
    if learned is not None:
        contents = [data.source.contents[position] for position in positions.tolist()]
        positions = positions[~among(contents, learned)]
    if len(positions) < min(_LEAST, len(data.test)):
        raise _Incomparable(
            f"production version {production} was trained on all but {len(positions)} of the {len(data.test):,} test "
            "images, so that they are no comparison"
        )
    return compare(
        _right(registry, model, version, data, positions, max_pixels),
        _right(registry, model, production, data, positions, max_pixels),
        data.targets[positions],
        data.labels,
        Rule.of(spec),
        versions=(version, production),
        left_out=len(data.test) - len(positions),
    )


def _right(
    registry: Registry, model: str, version: int, data: TrainingData, positions: Indices, max_pixels: int
) -> Right:
    """Which of the images at `positions` a version answers rightly, each preprocessed the version's own way."""
    manifest = registry.manifest(model, version)
    served = tf.saved_model.load(str(registry.folder(model, version))).signatures["serving_default"]
    targets = np.array([manifest.labels.index(data.labels[target]) for target in data.targets[positions]])
    right = np.empty(len(positions), bool)
    size = answered_at_once(manifest.preprocessing)
    for start in range(0, len(positions), size):
        chosen = positions[start : start + size]
        encoded = [data.source.read(int(number)) for number in chosen]
        images = np.stack([to_array(image, manifest.preprocessing, max_pixels=max_pixels) for image in encoded])
        inputs = scale(images, manifest.preprocessing).astype(manifest.input.dtype)
        outputs: Float32Array = served(**{manifest.input.name: tf.constant(inputs)})[manifest.output.name].numpy()
        right[start : start + size] = outputs.argmax(axis=1) == targets[start : start + size]
    return right
