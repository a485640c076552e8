"""The moving average of the weights that a run keeps beside the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.training.checkpoint import Arrays


class WeightAverage:
    """Exponential moving average of all weights, batch norm statistics included (Polyak and Juditsky, 1992)."""

    def __init__(self, model: keras.Model, momentum: float) -> None:
        """Nothing is kept with a `momentum` of 0."""
        self._momentum = momentum
        self._weights = [weight.value for weight in model.weights] if momentum else []
        self._averages = [tf.Variable(weight) for weight in self._weights]
        self._step = tf.Variable(0.0)

    def update(self) -> None:
        """Take in the weights as they are now. Meant to be part of a graph, once a step."""
        if not self._momentum:
            return
        self._step.assign_add(1.0)
        # The young average follows quickly: it must not remember the random start.
        momentum = tf.minimum(self._momentum, self._step / (10.0 + self._step))
        for average, weight in zip(self._averages, self._weights, strict=True):
            average.assign(average * momentum + weight * (1 - momentum))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model carries the averages for the length of the block."""
        kept = values_of(self._weights)
        for weight, average in zip(self._weights, self._averages, strict=True):
            weight.assign(average)
        try:
            yield
        finally:
            for weight, value in zip(self._weights, kept, strict=True):
                weight.assign(value)

    def values(self) -> Arrays:
        return [self._step.numpy(), *values_of(self._averages)] if self._momentum else []

    def restore(self, values: Arrays) -> None:
        if self._momentum:
            for variable, value in zip([self._step, *self._averages], values, strict=True):
                variable.assign(value)


def values_of(variables: list[Any]) -> Arrays:
    """Copies of the values of Keras or TensorFlow variables."""
    # Copied: the array that `numpy()` hands out may be the variable's own memory.
    return [np.array(variable.numpy()) for variable in variables]
