"""Optimizers and losses."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import numpy.typing as npt
from keras import ops

from app.errors import TrainingFailed
from app.jobs.gate import unknown_class
from app.jobs.networks import Pretrained
from app.preprocessing import Float32Array
from app.training.phases import Phase
from app.training.pretrained import base_of
from app.training.recipes import Recipe
from app.training.schedule import Course, LearningRate

Tensor = Any


class WeightedCrossentropy(keras.losses.CategoricalCrossentropy):  # type: ignore[misc]
    """Cross-entropy in which each image counts as much as its class; a mixed one as the mix of its classes."""

    def __init__(self, weights: Float32Array, label_smoothing: float) -> None:
        super().__init__(from_logits=True, label_smoothing=label_smoothing)
        self._weights = weights

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return super().call(y_true, y_pred) * ops.sum(ops.cast(y_true, "float32") * self._weights, axis=-1)


def make_loss(recipe: Recipe, labels: list[str], counts: npt.NDArray[np.int64]) -> keras.losses.Loss:
    """The loss of logits against labels float32 [n, classes]; `counts` are the training images of each class.

    Raises:
        TrainingFailed: a class is weighted that the dataset does not have.
    """
    smoothing = recipe.label_smoothing
    if recipe.class_weights == "none":
        return keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing)
    return WeightedCrossentropy(_class_weights(recipe.class_weights, labels, counts), smoothing)


def make_optimizer(recipe: Recipe, phase: Phase, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of a phase whose epochs have `steps` steps, with its learning rate over all of them."""
    rate = LearningRate(course(recipe, phase, steps))
    decay = recipe.weight_decay or None
    match recipe.optimizer:
        case "adam":
            optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
        case "adamw":
            optimizer = keras.optimizers.AdamW(rate, weight_decay=recipe.weight_decay)
        case "sgd":
            nesterov = recipe.nesterov and recipe.momentum > 0
            optimizer = keras.optimizers.SGD(rate, recipe.momentum, nesterov=nesterov, weight_decay=decay)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(rate, weight_decay=decay)
    if decay:
        # Decaying what only shifts and scales helps nothing.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return optimizer


def course(recipe: Recipe, phase: Phase, steps: int) -> Course:
    """The learning rate over a phase whose epochs have `steps` steps."""
    total = steps * phase.epochs
    return Course(
        kind=recipe.schedule,
        peak=phase.rate,
        total=total,
        warmup=int(total * recipe.warmup),
        decay=recipe.decay,
        drop_every=steps * recipe.step_epochs,
    )


def begin_phase(model: keras.Model, recipe: Recipe, phase: Phase, steps: int, loss: keras.losses.Loss) -> None:
    """Freeze or thaw the base, and give the model a new optimizer and `loss`; `steps` are of one epoch."""
    if isinstance(recipe.architecture, Pretrained):
        base_of(model).trainable = not phase.frozen
    optimizer = make_optimizer(recipe, phase, steps)
    model.compile(optimizer, loss, metrics=["accuracy"])
    optimizer.build(model.trainable_variables)


def _class_weights(asked: str | dict[str, float], labels: list[str], counts: npt.NDArray[np.int64]) -> Float32Array:
    if isinstance(asked, str):
        # Each class counts the same, and the mean over all images is 1; one without images counts nothing.
        return np.where(counts > 0, counts.sum() / (len(labels) * np.maximum(counts, 1)), 0).astype(np.float32)
    if reason := unknown_class(asked, labels):
        raise TrainingFailed(reason)
    return np.array([asked.get(label, 1.0) for label in labels], np.float32)
