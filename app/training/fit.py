"""From a spec and data to a trained network: what is trained, for how long, and which weights are kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from app.jobs.spec import TrainingSpec
from app.training.architectures import build, finish
from app.training.batches import Batches, in_pieces
from app.training.bf16 import computes_bf16
from app.training.checkpoint import Checkpoint, Epoch
from app.training.dataset import TrainingData
from app.training.initial_weights import set_initial_weights
from app.training.normalization import Normalization, choose_normalization
from app.training.optimization import make_loss
from app.training.phases import phase_of
from app.training.recipes import Recipe, choose
from app.training.remaining import Afterwards
from app.training.reporter import Reporter
from app.training.run import Run


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
    seconds_per_answer: float = 0.0
    """How long an image took that was only answered, in validation."""


def fit(
    spec: TrainingSpec,
    data: TrainingData,
    checkpoints: Path,
    reporter: Reporter,
    *,
    weights_folder: Path = Path(),
    threads: int | None = None,
    afterwards: Afterwards | None = None,
) -> Fitted:
    """Train until the epochs are done or the validation loss stops falling; resume where a checkpoint says.

    Args:
        spec: what to train, and how.
        data: what to learn from.
        checkpoints: folder of the run's state; made at the first save.
        reporter: hears of every epoch and checkpoint, with the time left.
        weights_folder: has the files that a spec can start from.
        threads: of the processor; for a warning when a run is resumed with another number.
        afterwards: estimates what the job does after this; unset, that is not counted in the time left.

    Raises:
        TrainingFailed: loss or weights are no longer finite, the network does not fit the images, or its weights file
            does not fit the network.
        OSError: a checkpoint could not be written.
        Cancelled: the job was asked to stop.
    """
    train, labels, preprocessing = data.train, data.labels, data.preprocessing
    recipe = choose(
        spec,
        images=len(train),
        total=len(data.targets),
        labels=labels,
        preprocessing=preprocessing,
        bf16=computes_bf16(),
    )
    pieces = (images for images, _ in in_pieces(data, train))
    normalization = choose_normalization(recipe.preprocessing.normalization, pieces, preprocessing.channels)

    def network(mixed_precision: bool) -> keras.Model:
        architecture, classes = recipe.architecture, len(labels)
        return build(
            architecture, preprocessing, normalization, classes, seed=recipe.seed, mixed_precision=mixed_precision
        )

    model = network(recipe.mixed_precision)
    loss = make_loss(recipe, labels, np.bincount(data.targets[train], minlength=len(labels)))
    state = _resumable(checkpoints, model, threads, reporter)
    if state is None:
        set_initial_weights(model, recipe.architecture, data, normalization, seed=recipe.seed, folder=weights_folder)
        reporter.phase("fit", f"{recipe.architecture.name} with {model.count_params():,} parameters")
    batches = Batches(data, recipe.batch_size, recipe.seed)
    run = Run(recipe, data, model, loss, batches, state, checkpoints, reporter, afterwards)
    state = run.state
    state.threads = threads

    while len(state.history) < recipe.epochs and not _stops_early(recipe, state):
        epoch, weights = run.epoch()
        if _is_best(state.history, len(data.validation), recipe.schedule):
            state.best, state.best_epoch = weights, epoch.epoch
        run.save()
        _report(epoch, recipe.epochs, run.left(), reporter)

    if recipe.early_stopping is not None and len(state.history) < recipe.epochs:
        reporter.phase("fit", f"stopped early: no lower validation loss for {recipe.early_stopping.patience} epochs")
    reporter.say(f"keeping the weights of epoch {state.best_epoch}")
    final = network(False)
    final.set_weights(state.best)
    finished = finish(final, mirrored=recipe.mirror_average)
    return Fitted(finished, final, recipe, normalization, state.history, state.best_epoch, run.seconds_per_answer)


def _resumable(checkpoints: Path, model: keras.Model, threads: int | None, reporter: Reporter) -> Checkpoint | None:
    """The last checkpoint, if it is one of this network; those of another one are removed."""
    state = Checkpoint.load(checkpoints, reporter.say)
    if state is None:
        return None
    if [tuple(variable.shape) for variable in model.variables] != [values.shape for values in state.variables]:
        reporter.say("the checkpoint is of a network that this release builds differently: beginning anew")
        Checkpoint.remove(checkpoints)
        return None
    reporter.phase(
        "fit", f"resuming after epoch {len(state.history)}" + (f" and {state.step:,} steps" if state.step else "")
    )
    if threads != state.threads:
        reporter.say(
            f"resumed with {threads} threads instead of {state.threads}: sums are taken in another order, and the "
            "last bits of the result may differ from those of an unbroken run"
        )
    return state


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


def _stops_early(recipe: Recipe, state: Checkpoint) -> bool:
    phase = phase_of(recipe, max(1, len(state.history)))
    # Not while a base is frozen: what comes after is meant to go on from there.
    losses = [epoch.val_loss for epoch in state.history[phase.first - 1 :]]
    if recipe.early_stopping is None or not losses or phase.last < recipe.epochs:
        return False
    return len(losses) - 1 - losses.index(min(losses)) >= recipe.early_stopping.patience


def _report(epoch: Epoch, epochs: int, left: float, reporter: Reporter) -> None:
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
