"""What is done for each batch, as graphs: augment, learn, average, and look whether all is well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.errors import TrainingFailed
from app.jobs.spec import Augmentation
from app.preprocessing import UInt8Array
from app.training.augmentation import augment
from app.training.averaging import WeightAverage, values_of
from app.training.batches import Chunk
from app.training.checkpoint import Arrays
from app.training.sources import Targets

Tensor = Any

_ADVICE = "Try a learning rate ten times lower, or a longer warm-up."


@dataclass(frozen=True)
class Scores:
    """Means over images."""

    loss: float
    accuracy: float


class Steps:
    """Training steps of a compiled model, many in a call: what Python would do between them is done in the graph.

    A step is a function of the model's variables, the batch, and (seed, epoch, step), so that it does not matter how
    the steps are cut into calls.
    """

    def __init__(
        self, model: keras.Model, average: WeightAverage, augmentation: Augmentation, *, batch_size: int, seed: int
    ) -> None:
        """Trace nothing yet. `average` takes in the model's weights after each step."""
        self._model = model
        self._average = average
        self._augmentation = augmentation
        self._batch_size = batch_size
        self._seed = seed
        self._classes: int = model.output_shape[-1]
        self._loss = tf.Variable(0.0, dtype=tf.float64)
        self._right = tf.Variable(0, dtype=tf.int64)
        # The first step whose loss was no number, or -1.
        self._diverged = tf.Variable(-1, dtype=tf.int32)
        images = tf.TensorSpec((None, *model.input_shape[1:]), tf.uint8)
        targets, number = tf.TensorSpec((None,), tf.int32), tf.TensorSpec((), tf.int32)
        self._train = tf.function(self._train_all, input_signature=[images, targets, number, number], autograph=False)
        self._answer = tf.function(self._score, input_signature=[images, targets], autograph=False)

    def train(self, chunk: Chunk, epoch: int) -> None:
        """Learn from the batches of a chunk.

        Raises:
            TrainingFailed: a loss is no longer finite.
        """
        draw = np.random.SeedSequence([self._seed, 4, epoch]).generate_state(1).astype(np.int32)[0]
        diverged = int(self._train(chunk.images, chunk.targets, draw, chunk.first))
        if diverged >= 0:
            raise TrainingFailed(
                f"The loss is no finite number any more at step {diverged + 1} of epoch {epoch}: training diverged. "
                f"{_ADVICE}"
            )

    def scores(self, steps: int) -> Scores:
        """Of the steps since the last `begin_epoch`, of which there were so many."""
        return Scores(float(self._loss) / steps, int(self._right) / (steps * self._batch_size))

    def begin_epoch(self) -> None:
        self._loss.assign(0.0)
        self._right.assign(0)

    def sums(self) -> Arrays:
        """What `scores` is made of, for a checkpoint."""
        return values_of([self._loss, self._right])

    def restore(self, sums: Arrays) -> None:
        for variable, value in zip((self._loss, self._right), sums, strict=True):
            variable.assign(value)

    def score(self, images: UInt8Array, targets: Targets) -> tuple[float, int]:
        """The sum of the losses of the model on images that it does not learn from, and how many it gets right."""
        loss, right = self._answer(images, targets)
        return float(loss), int(right)

    def _train_all(self, images: Tensor, targets: Tensor, draw: Tensor, first: Tensor) -> Tensor:
        count = tf.shape(targets)[0] // self._batch_size

        def step(number: Tensor) -> tuple[Tensor]:
            begin = number * self._batch_size
            # Their shape stays open: where it is known TensorFlow sums gradients up by way of constants of that shape,
            # which take memory for good, and are refused where they are large.
            pixels = images[begin : begin + self._batch_size]
            chosen = targets[begin : begin + self._batch_size]
            self._train_one(pixels, chosen, tf.stack([draw, first + number]))
            return (number + 1,)

        tf.while_loop(lambda number: number < count, step, (tf.constant(0),), parallel_iterations=1)
        return self._diverged.read_value()

    def _train_one(self, pixels: Tensor, targets: Tensor, seed: Tensor) -> None:
        model = self._model
        images, labels = augment(pixels, tf.one_hot(targets, self._classes), self._augmentation, seed)
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = model.compute_loss(y=labels, y_pred=logits, training=True)
        weights = model.trainable_variables
        model.optimizer.apply(tape.gradient(loss, [weight.value for weight in weights]), weights)
        self._average.update()
        self._loss.assign_add(tf.cast(loss, tf.float64))
        self._right.assign_add(_right(labels, logits))
        fine = tf.math.is_finite(loss) | (self._diverged >= 0)
        self._diverged.assign(tf.where(fine, self._diverged, seed[1]))

    def _score(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        labels = tf.one_hot(targets, self._classes)
        logits = self._model(tf.cast(images, tf.float32), training=False)
        loss = self._model.compute_loss(y=labels, y_pred=logits, training=False)
        return loss * tf.cast(tf.shape(targets)[0], tf.float32), _right(labels, logits)


def check_loss(validation: Scores, epoch: int) -> None:
    """Whether what an epoch has left behind can be kept.

    Raises:
        TrainingFailed: the validation loss is no finite number.
    """
    if not np.isfinite(validation.loss):
        raise TrainingFailed(
            f"The validation loss is {validation.loss} after epoch {epoch}, though the training loss is finite: "
            f"training diverged. {_ADVICE}"
        )


def check_weights(weights: Arrays, epoch: int) -> None:
    """Whether a run can go on from these weights.

    Raises:
        TrainingFailed: one of them is no finite number.
    """
    if not all(np.isfinite(values).all() for values in weights):
        raise TrainingFailed(
            f"Some weights are no finite numbers any more in epoch {epoch}: training diverged. {_ADVICE}"
        )


def _right(labels: Tensor, logits: Tensor) -> Tensor:
    return tf.math.count_nonzero(tf.argmax(labels, axis=-1) == tf.argmax(logits, axis=-1))
