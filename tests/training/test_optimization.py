"""Optimizers, losses and phases."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from pydantic import ValidationError

from app.errors import TrainingFailed
from app.training.optimization import course, make_loss, make_optimizer
from app.training.phases import Phase, phase_of, phases
from tests.training.recipe import recipe

LABELS = ["cat", "dog", "eel"]
COUNTS = np.array([60, 30, 10])
PHASE = Phase(1, 10, 0.1, frozen=False)


def _loss(logits: Any, targets: list[int], **fields: Any) -> float:
    loss = make_loss(recipe(label_smoothing=0, **fields), LABELS, COUNTS)
    return float(loss(np.eye(3, dtype=np.float32)[targets], np.asarray(logits, np.float32)))


def test_classes_count_by_their_weights() -> None:
    """The loss of an image is multiplied by the weight of its class; a class that is not named counts 1."""
    logits = [[1.0, 0.0, 0.0], [0.0, 2.0, 1.0]]
    plain = [_loss([row], [target]) for row, target in zip(logits, (0, 2), strict=True)]
    assert _loss(logits, [0, 2]) == pytest.approx(sum(plain) / 2, rel=1e-5)
    weighted = _loss(logits, [0, 2], class_weights={"eel": 3})
    assert weighted == pytest.approx((plain[0] + 3 * plain[1]) / 2, rel=1e-5)


def test_balanced_classes_count_the_same() -> None:
    """Each class's images together count as much as any other's, and the mean weight of all images is 1."""
    each = np.array([_loss([[0.0, 0.0, 0.0]], [target], class_weights="balanced") for target in range(3)])
    share = each * COUNTS
    np.testing.assert_allclose(share, share[0], rtol=1e-5)
    assert share.sum() / COUNTS.sum() == pytest.approx(np.log(3), rel=1e-5)


def test_a_mixed_image_counts_as_the_mix_of_its_classes() -> None:
    """With mixup, weights are mixed as labels are."""
    loss = make_loss(recipe(class_weights={"cat": 4}), LABELS, COUNTS)
    plain = make_loss(recipe(), LABELS, COUNTS)
    mixed, logits = np.array([[0.25, 0.75, 0.0]], np.float32), np.array([[1.0, 2.0, 0.5]], np.float32)
    assert float(loss(mixed, logits)) == pytest.approx(float(plain(mixed, logits)) * (0.25 * 4 + 0.75), rel=1e-5)


def test_a_weight_for_a_class_that_is_not_there_is_refused() -> None:
    """The message names the class, and those that there are."""
    with pytest.raises(TrainingFailed, match=r"'cow', which is no class .* Its classes: cat, dog, eel"):
        make_loss(recipe(class_weights={"cow": 2}), LABELS, COUNTS)
    with pytest.raises(ValidationError):
        recipe(class_weights={"cat": -1})


def test_labels_are_smoothed() -> None:
    """A share of the true label's weight is spread over all classes."""
    loss = make_loss(recipe(label_smoothing=0.3), LABELS, COUNTS)
    logits = np.array([[2.0, 1.0, 0.0]], np.float32)
    logarithms = logits[0] - np.log(np.exp(logits[0]).sum())
    expected = -(0.8 * logarithms[0] + 0.1 * logarithms[1] + 0.1 * logarithms[2])
    assert float(loss(np.eye(3, dtype=np.float32)[[0]], logits)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_has_the_momentum_that_was_asked_for(nesterov: bool) -> None:
    """Two steps on a constant gradient come out as either form of momentum has it."""
    spec = recipe(optimizer="sgd", momentum=0.5, nesterov=nesterov, weight_decay=0, schedule="constant", warmup=0)
    optimizer = make_optimizer(spec, PHASE, steps=5)
    weight = keras.Variable([1.0])
    for _ in range(2):
        optimizer.apply([np.array([1.0], np.float32)], [weight])
    # Velocities -0.1 and -0.15; Nesterov's looks half a velocity ahead, each time.
    moved = (0.05 + 0.1) + (0.075 + 0.1) if nesterov else 0.1 + 0.15
    assert float(weight.numpy()[0]) == pytest.approx(1 - moved, rel=1e-5)


def test_the_schedule_spans_its_phase() -> None:
    """Steps are counted over the epochs of the phase; warm-up is a share of them, and falls come every few epochs."""
    spec = recipe(schedule="step", step_epochs=4, warmup=0.2, decay=0.5)
    assert course(spec, PHASE, steps=5).total == 50
    assert course(spec, PHASE, steps=5).warmup == 10
    assert course(spec, PHASE, steps=5).drop_every == 20
    assert course(spec, PHASE, steps=5).peak == 0.1
    assert recipe(schedule="step", epochs=10).step_epochs == 4


def test_training_is_one_phase_unless_a_base_is_frozen() -> None:
    """Frozen epochs first, at the full rate; then all layers at a share of it."""
    assert phases(recipe(epochs=8, learning_rate=0.2)) == [Phase(1, 8, 0.2, frozen=False)]
    base = {"name": "mobilenet_v2", "weights": "imagenet.h5", "frozen_epochs": 3, "fine_tune_rate": 0.5}
    tuned = recipe(epochs=8, learning_rate=0.2, architecture=base)
    assert phases(tuned) == [Phase(1, 3, 0.2, frozen=True), Phase(4, 5, 0.1, frozen=False)]
    assert [phase_of(tuned, epoch).frozen for epoch in (1, 3, 4, 8, 9)] == [True, True, False, False, False]
    assert phases(recipe(epochs=3, learning_rate=0.2, architecture=base)) == [Phase(1, 3, 0.2, frozen=True)]
    # Unset, a quarter of the epochs is frozen where there are weights to keep.
    unset = {"name": "mobilenet_v2", "weights": "imagenet.h5"}
    assert phases(recipe(epochs=8, architecture=unset))[0].epochs == 2
    assert len(phases(recipe(epochs=8, architecture={"name": "mobilenet_v2"}))) == 1
