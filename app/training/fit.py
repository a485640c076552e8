"""The training loop: epochs of augmented batches, a checkpoint after each, the best weights kept."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from app.errors import TrainingFailed
from app.jobs.spec import Augmentation, TrainingSpec
from app.preprocessing import UInt8Array
from app.training.architectures import build, finish
from app.training.augmentation import augment
from app.training.averaging import WeightAverage, values_of
from app.training.bf16 import computes_bf16
from app.training.checkpoint import Checkpoint, Epoch
from app.training.dataset import TrainingData
from app.training.initial_weights import set_initial_weights
from app.training.normalization import Normalization, choose_normalization
from app.training.optimization import begin_phase, make_loss
from app.training.phases import Phase, phase_of
from app.training.recipes import Recipe, choose
from app.training.reporter import Reporter
from app.training.sources import Targets

# Share of the fitting time that evaluating and exporting take at the end, for the estimate of the time left.
_AFTERWARDS = 0.05


@dataclass(frozen=True)
class Fitted:
    """What came of training.

    `model`: float32 images in [0, 255] to probabilities, with the weights of `best_epoch`. `network`: the part of it
    that ends in logits. `recipe`: the spec, with what was chosen. `normalization`: what `build` was given.
    """

    model: keras.Model
    network: keras.Model
    recipe: Recipe
    normalization: Normalization
    history: list[Epoch]
    best_epoch: int


def fit(
    spec: TrainingSpec, data: TrainingData, checkpoints: Path, reporter: Reporter, *, weights_folder: Path = Path()
) -> Fitted:
    """Train until the epochs are done or the validation loss stops falling; resume where a checkpoint says.

    `weights_folder` has the files that a spec can start from.

    Raises:
        TrainingFailed: the loss is no longer finite, the network does not fit the images, or its weights file does
            not fit the network.
        Cancelled: the job was asked to stop.
    """
    train, labels, preprocessing = data.train, data.labels, data.preprocessing
    recipe = choose(spec, images=len(train), labels=labels, preprocessing=preprocessing, bf16=computes_bf16())
    kind = recipe.preprocessing.normalization
    normalization = choose_normalization(kind, data.chunks(train), preprocessing.channels)

    def network(mixed_precision: bool) -> keras.Model:
        architecture, classes = recipe.architecture, len(labels)
        return build(
            architecture, preprocessing, normalization, classes, seed=recipe.seed, mixed_precision=mixed_precision
        )

    model = network(recipe.mixed_precision)
    batch_size = min(recipe.batch_size, len(train))
    steps = len(train) // batch_size
    loss = make_loss(recipe, labels, np.bincount(data.targets[train], minlength=len(labels)))
    state = Checkpoint.load(checkpoints)
    if state is None:
        set_initial_weights(model, recipe.architecture, data, normalization, seed=recipe.seed, folder=weights_folder)
    average = WeightAverage(model, recipe.weight_average)
    phase = phase_of(recipe, 1 + (len(state.history) if state else 0))
    begin_phase(model, recipe, phase, steps, loss)
    if state is not None:
        # A phase that has only begun has an optimizer of its own.
        _restore(model, average, state, optimizer=len(state.history) >= phase.first)
        reporter.phase("fit", f"resuming after epoch {len(state.history)}")
    else:
        state = Checkpoint([], [], [], best=values_of(model.weights), best_epoch=0)
        reporter.phase("fit", f"{recipe.architecture.name} with {model.count_params():,} parameters")
    validation = _batches(data.images[data.validation], data.targets[data.validation], len(labels), batch_size)

    while len(state.history) < recipe.epochs and not _stops_early(recipe, phase, state):
        number = len(state.history) + 1
        if number > phase.last:
            phase = phase_of(recipe, number)
            begin_phase(model, recipe, phase, steps, loss)
        started = time.monotonic()
        batches = _augmented(data, batch_size, recipe.augmentation, recipe.seed, number)
        fitted = model.fit(batches, epochs=1, verbose=0, shuffle=False, callbacks=[_Watch(reporter), average])
        with average.applied():
            val_loss, val_accuracy = model.evaluate(validation, verbose=0, callbacks=[_Watch(reporter)])
            weights = values_of(model.weights)
        epoch = Epoch(
            epoch=number,
            loss=fitted.history["loss"][0],
            accuracy=fitted.history["accuracy"][0],
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            learning_rate=float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)),
            seconds=time.monotonic() - started,
        )
        state.history.append(epoch)
        if _is_best(state.history, len(data.validation), recipe.schedule):
            state.best, state.best_epoch = weights, number
        state.variables, state.optimizer = values_of(model.variables), values_of(model.optimizer.variables)
        state.average = average.values()
        state.save(checkpoints)
        _report(epoch, recipe.epochs, state.history, reporter)

    if recipe.early_stopping is not None and len(state.history) < recipe.epochs:
        reporter.phase("fit", f"stopped early: no lower validation loss for {recipe.early_stopping.patience} epochs")
    reporter.say(f"keeping the weights of epoch {state.best_epoch}")
    final = network(False)
    final.set_weights(state.best)
    model = finish(final, mirrored=recipe.mirror_average)
    return Fitted(model, final, recipe, normalization, state.history, state.best_epoch)


def _augmented(
    data: TrainingData, batch_size: int, augmentation: Augmentation, seed: int, epoch: int
) -> tf.data.Dataset:
    """One epoch of shuffled, augmented batches of the training split, the same for the same seed and epoch."""
    images, targets, classes = data.images, data.targets, len(data.labels)
    # Positions in the whole data set: a copy of the training split would double the memory.
    order = data.train[np.random.default_rng([seed, 3, epoch]).permutation(len(data.train))]
    one_hot = np.eye(classes, dtype=np.float32)

    def batch(step: Any, positions: Any) -> tuple[Any, Any]:
        pixels = tf.numpy_function(lambda chosen: images[chosen], [positions], tf.uint8)
        pixels.set_shape((batch_size, *images.shape[1:]))
        labels = tf.numpy_function(lambda chosen: one_hot[targets[chosen]], [positions], tf.float32)
        labels.set_shape((batch_size, classes))
        draw = tf.stack([tf.constant(seed * 1_000_003 % 2**31 + epoch, tf.int32), tf.cast(step, tf.int32)])
        return augment(pixels, labels, augmentation, draw)

    batches = tf.data.Dataset.from_tensor_slices(order).batch(batch_size, drop_remainder=True).enumerate()
    return batches.map(batch, num_parallel_calls=2, deterministic=True).prefetch(2)


def _batches(images: UInt8Array, targets: Targets, classes: int, batch_size: int) -> tf.data.Dataset:
    one_hot = np.eye(classes, dtype=np.float32)[targets]
    batches = tf.data.Dataset.from_tensor_slices((images, one_hot)).batch(max(batch_size, 256))
    return batches.map(lambda pixels, labels: (tf.cast(pixels, tf.float32), labels)).prefetch(2)


class _Watch(keras.callbacks.Callback):  # type: ignore[misc]
    """Ends the run when the job is cancelled or the loss is no longer a number."""

    def __init__(self, reporter: Reporter) -> None:
        super().__init__()
        self._reporter = reporter

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._reporter.check_cancelled()
        loss = (logs or {}).get("loss", 0.0)
        if not np.isfinite(loss):
            raise TrainingFailed(
                f"The loss became {loss} at step {batch + 1} of an epoch: training diverged. Try a learning rate ten "
                "times lower, or a longer warm-up."
            )

    def on_test_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        self._reporter.check_cancelled()


def _restore(model: keras.Model, average: WeightAverage, state: Checkpoint, *, optimizer: bool) -> None:
    pairs = [(model.variables, state.variables)]
    if optimizer:
        pairs.append((model.optimizer.variables, state.optimizer))
    for variables, values in pairs:
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    average.restore(state.average)


def _is_best(history: list[Epoch], images: int, schedule: str) -> bool:
    """Whether the weights of the last epoch are the ones to keep.

    Under a schedule that lets the learning rate fall they are unless their accuracy is worse than the best one by
    more than its standard error on that many validation `images`: what is less is noise, and later weights are the
    calmer ones. Under a constant rate only a better accuracy counts, or a lower loss at the same.
    """
    if schedule == "constant":
        key = [(epoch.val_accuracy, -epoch.val_loss) for epoch in history]
        return key[-1] > max(key[:-1], default=(-1.0, 0.0))
    best = max(epoch.val_accuracy for epoch in history)
    return history[-1].val_accuracy >= best - math.sqrt(best * (1 - best) / images)


def _stops_early(recipe: Recipe, phase: Phase, state: Checkpoint) -> bool:
    # Not while a base is frozen: what comes after is meant to go on from there.
    losses = [epoch.val_loss for epoch in state.history[phase.first - 1 :]]
    if recipe.early_stopping is None or not losses or phase.last < recipe.epochs:
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= recipe.early_stopping.patience


def _report(epoch: Epoch, epochs: int, history: list[Epoch], reporter: Reporter) -> None:
    # The first epoch traces and compiles; later ones tell the pace.
    pace = float(np.median([past.seconds for past in (history[1:] or history)[-5:]]))
    left = pace * (epochs - epoch.epoch) * (1 + _AFTERWARDS)
    reporter.epoch(
        f"epoch {epoch.epoch}/{epochs}: loss {epoch.loss:.4f}, accuracy {epoch.accuracy:.4f}, validation loss "
        f"{epoch.val_loss:.4f}, validation accuracy {epoch.val_accuracy:.4f}, {epoch.seconds:.1f} s",
        epoch=epoch.epoch,
        epochs=epochs,
        loss=epoch.loss,
        accuracy=epoch.accuracy,
        val_loss=epoch.val_loss,
        val_accuracy=epoch.val_accuracy,
        learning_rate=epoch.learning_rate,
        seconds=epoch.seconds,
        remaining_seconds=left,
    )
