"""One epoch after the other, of a run that may be broken off at any moment and resumed."""

from __future__ import annotations

import time
from pathlib import Path

import keras

from app.training.averaging import WeightAverage, values_of
from app.training.batches import Batches, Chunk, in_pieces
from app.training.checkpoint import Arrays, Checkpoint, Epoch
from app.training.dataset import TrainingData
from app.training.optimization import begin_phase
from app.training.phases import phase_of, phases
from app.training.recipes import Recipe
from app.training.remaining import Afterwards, Shares, TimeLeft, answers_afterwards
from app.training.reporter import Reporter
from app.training.steps import Scores, Steps, check_loss, check_weights


class Run:
    """A compiled model, the batches it learns from, and how far it is (`state`)."""

    def __init__(
        self,
        recipe: Recipe,
        data: TrainingData,
        model: keras.Model,
        loss: keras.losses.Loss,
        batches: Batches,
        state: Checkpoint | None,
        folder: Path,
        reporter: Reporter,
        afterwards: Afterwards | None = None,
    ) -> None:
        """At the beginning, or where `state` says.

        Args:
            recipe: how to train.
            data: what to learn from.
            model: with the weights to begin with.
            loss: of logits against labels.
            batches: of the images to learn from.
            state: where to go on; it must fit the model.
            folder: for checkpoints; made at the first.
            reporter: hears of every epoch and checkpoint, with the time left.
            afterwards: estimates what the job does after the last epoch; unset, that is not counted.
        """
        self._recipe = recipe
        self._data = data
        self._model = model
        self._loss = loss
        self._batches = batches
        self._folder = folder
        self._reporter = reporter
        self._afterwards = afterwards
        self._average = WeightAverage(model, recipe.weight_average)
        self.state = state or Checkpoint([], [], [], best=values_of(model.weights), best_epoch=0)
        shares = Shares(batches.steps, batches.batch_size, len(data.validation))
        self._clock = TimeLeft(phases(recipe), shares, [epoch.seconds for epoch in self.state.history])
        self._begin_phase()
        self._clock.begin(self._phase)
        if state is not None:
            self._restore(state)
        self._saved = time.monotonic()

    @property
    def seconds_per_answer(self) -> float:
        """How long an image takes that is only answered."""
        return self._clock.seconds_per_answer

    def epoch(self) -> tuple[Epoch, Arrays]:
        """Do the next epoch, or what is left of it; returns what it came to, and the weights to judge it by.

        Raises:
            TrainingFailed: loss, validation loss or weights are no longer finite.
            OSError: a checkpoint could not be written.
            Cancelled: the job was asked to stop.
        """
        state, number = self.state, len(self.state.history) + 1
        if number > self._phase.last:
            self._begin_phase()
            self._clock.begin(self._phase)
        begun = time.monotonic() - state.seconds
        tracing = 0.0
        for chunk in self._batches.epoch(number, after=state.step):
            tracing += self._learn(chunk, number)
            state.step, state.seconds = chunk.first + chunk.steps, time.monotonic() - begun
            if state.step < self._batches.steps and self._due():
                self.save()
                self._report_step(number)
        learnt = self._steps.scores(self._batches.steps)
        with self._average.applied():
            weights = values_of(self._model.weights)
            check_weights(weights, number)
            tracing += self._trace_answer()
            validation = self._validate()
        check_loss(validation, number)
        self._traced = True
        seconds = time.monotonic() - begun
        self._clock.epoch_done(seconds, tracing)
        self._steps.begin_epoch()
        state.step, state.seconds = 0, 0.0
        epoch = Epoch(
            epoch=number,
            loss=learnt.loss,
            accuracy=learnt.accuracy,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            learning_rate=float(keras.ops.convert_to_numpy(self._model.optimizer.learning_rate)),
            seconds=seconds,
        )
        state.history.append(epoch)
        return epoch, weights

    def save(self) -> None:
        """Write a checkpoint of the state as it is now.

        Raises:
            TrainingFailed: a weight is no longer finite: nobody shall resume from there.
            OSError: it could not be written.
        """
        state = self.state
        state.variables = values_of(self._model.variables)
        state.optimizer = values_of(self._model.optimizer.variables)
        state.average = self._average.values()
        state.sums = self._steps.sums()
        check_weights(state.variables, len(state.history) + min(state.step, 1))
        state.save(self._folder)
        self._saved = time.monotonic()

    def left(self) -> float:
        """Estimated seconds to the end of the job."""
        after = 0.0
        if self._afterwards is not None:
            answers = answers_afterwards(
                validation=len(self._data.validation),
                test=len(self._data.test),
                precisions=len(self._recipe.precisions),
                mirrored=self._recipe.mirror_average,
            )
            after = self._afterwards.seconds(answers, self._clock.seconds_per_answer)
        return self._clock.left(len(self.state.history), self.state.step) + after

    def _begin_phase(self) -> None:
        """Make ready for the next epoch: a phase has an optimizer, and so graphs, of its own."""
        self._phase = phase_of(self._recipe, len(self.state.history) + 1)
        begin_phase(self._model, self._recipe, self._phase, self._batches.steps, self._loss)
        self._steps = Steps(
            self._model,
            self._average,
            self._recipe.augmentation,
            batch_size=self._batches.batch_size,
            seed=self._recipe.seed,
        )
        self._traced = False

    def _restore(self, state: Checkpoint) -> None:
        pairs = [(self._model.variables, state.variables)]
        # What was saved between two phases has the optimizer of the one that had ended.
        if state.step or len(state.history) >= self._phase.first:
            pairs.append((self._model.optimizer.variables, state.optimizer))
        for variables, values in pairs:
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)
        self._average.restore(state.average)
        self._steps.restore(state.sums)

    def _learn(self, chunk: Chunk, number: int) -> float:
        """Train on a chunk; returns the seconds of it that are due to tracing the graph."""
        self._reporter.check_cancelled()
        begun = time.monotonic()
        self._steps.train(chunk, number)
        seconds = time.monotonic() - begun
        if not self._traced:
            self._traced = True
            return seconds
        self._clock.steps_done(chunk.steps, seconds)
        self._batches.adapt(self._clock.seconds_per_step)
        return 0.0

    def _trace_answer(self) -> float:
        begun = time.monotonic()
        images, targets = next(in_pieces(self._data, self._data.validation[:1]))
        self._steps.score(images, targets)
        return time.monotonic() - begun

    def _validate(self) -> Scores:
        loss, right, images = 0.0, 0, len(self._data.validation)
        begun = time.monotonic()
        for pixels, targets in in_pieces(self._data, self._data.validation, self._batches.batch_size):
            self._reporter.check_cancelled()
            more_loss, more_right = self._steps.score(pixels, targets)
            loss, right = loss + more_loss, right + more_right
        self._clock.answered(images, time.monotonic() - begun)
        return Scores(loss / images, right / images)

    def _due(self) -> bool:
        return time.monotonic() - self._saved >= self._recipe.checkpoint_seconds

    def _report_step(self, number: int) -> None:
        steps = self._batches.steps
        scores = self._steps.scores(self.state.step)
        self._reporter.step(
            f"epoch {number}/{self._recipe.epochs}: step {self.state.step:,} of {steps:,}, loss {scores.loss:.4f}",
            step=self.state.step,
            steps=steps,
            remaining_seconds=self.left(),
        )
