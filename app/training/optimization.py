"""Optimizers and learning rates."""

from __future__ import annotations

from typing import Any

import keras

from app.jobs.spec import TrainingSpec

_DEFAULT_LEARNING_RATE = {"adam": 0.001, "adamw": 0.001, "rmsprop": 0.001, "sgd": 0.05}


def peak_learning_rate(spec: TrainingSpec) -> float:
    """The learning rate asked for, or what suits the optimizer."""
    return spec.learning_rate or _DEFAULT_LEARNING_RATE[spec.optimizer]


def compile_model(model: keras.Model, spec: TrainingSpec, steps: int) -> None:
    """Give the model its optimizer, with the learning rate over all steps, and its loss; `steps` are of one epoch."""
    peak = peak_learning_rate(spec)
    total = steps * spec.epochs
    warmup = int(total * spec.warmup)
    if spec.schedule == "cosine":
        rate: Any = keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=peak / 100 if warmup else peak,
            decay_steps=max(1, total - warmup),
            warmup_target=peak if warmup else None,
            warmup_steps=warmup,
        )
    else:
        rate = peak
    decay = spec.weight_decay or None
    match spec.optimizer:
        case "adam":
            optimizer = keras.optimizers.Adam(rate, weight_decay=decay)
        case "adamw":
            optimizer = keras.optimizers.AdamW(rate, weight_decay=spec.weight_decay)
        case "sgd":
            optimizer = keras.optimizers.SGD(rate, spec.momentum, nesterov=spec.momentum > 0, weight_decay=decay)
        case "rmsprop":
            optimizer = keras.optimizers.RMSprop(rate, weight_decay=decay)
    if decay:
        # Decaying what only shifts and scales helps nothing.
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=spec.label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"])
    optimizer.build(model.trainable_variables)
