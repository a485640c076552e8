"""How long a job will still take, from how long it took so far."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.training.phases import Phase

# Epochs that the pace is the median of: a machine's load changes, and an old pace says little.
_RECENT = 5

# A step that learns all of a network, in those of a step for which its base is frozen, and so only answers: going back
# through it takes twice as long as going forward. Only until it was measured.
_THAWED = 3.0

# Answering an image without learning from it, as a share of a step's time for it; only until it was measured.
_ANSWER = 0.3


@dataclass(frozen=True)
class Shares:
    """What an epoch consists of: steps, then an answer to each validation image."""

    steps: int
    batch_size: int
    validation: int


class TimeLeft:
    """The time until all epochs are done, learnt as they pass. Seconds everywhere."""

    def __init__(self, phases: Sequence[Phase], shares: Shares, earlier: Sequence[float] = ()) -> None:
        """`phases`: all epochs there are. `earlier`: durations of epochs that an earlier attempt did."""
        self._phases = phases
        self._shares = shares
        # Of which phase the pace is known, and which one runs: the same, once that was measured.
        self._known = self._running = next((phase for phase in phases if len(earlier) <= phase.last), phases[-1])
        # The first epoch of a process takes longer by what is traced and compiled in it; later ones tell the pace.
        durations = earlier[self._known.first - 1 :]
        self._full = list(durations[1:] or durations)
        self._measured = 0
        self._step_seconds = 0.0
        self._steps = 0.0
        self._answer_seconds: float | None = None

    @property
    def seconds_per_step(self) -> float:
        """Mean over the steps of this process that were reported; 0 before the first."""
        return self._step_seconds / self._steps if self._steps else 0.0

    @property
    def seconds_per_answer(self) -> float:
        """For an image that is only answered."""
        if self._answer_seconds is not None:
            return self._answer_seconds
        return _ANSWER * self.seconds_per_step / self._shares.batch_size

    def steps_done(self, steps: int, seconds: float) -> None:
        """So many steps took so long. Leave out those that were traced in that time."""
        self._leave_the_phase_before()
        # Of the running epoch mostly: what came long before counts less and less.
        if self._steps >= self._shares.steps:
            self._steps, self._step_seconds = self._steps / 2, self._step_seconds / 2
        self._steps += steps
        self._step_seconds += seconds

    def answered(self, images: int, seconds: float) -> None:
        """So many images were answered in that time."""
        if images:
            self._answer_seconds = seconds / images

    def epoch_done(self, seconds: float, start: float) -> None:
        """An epoch took so long, of which `start` was spent on what only a process's first epoch does."""
        self._leave_the_phase_before()
        # What an earlier attempt measured was perhaps on another machine. And the first epoch of a process is slow in
        # other ways too: it tells the pace only until there is another.
        if self._measured < 2:
            self._full = []
        self._measured += 1
        self._full.append(max(0.0, seconds - start))

    def begin(self, phase: Phase) -> None:
        """What comes now has another pace than what was; until it is measured, that one tells."""
        self._running = phase

    def left(self, done: int, step: int = 0) -> float:
        """The time that the epochs after `done` will take, of the first of which `step` steps are done."""
        shares = self._shares
        answers = shares.validation * self.seconds_per_answer
        steps = shares.steps * self.seconds_per_step
        epoch = statistics.median(self._full[-_RECENT:]) if self._full else steps + answers
        # The share of an epoch that goes into steps; the rest comes after the last of them.
        of_steps = steps / (steps + answers) if steps + answers else 1.0
        left = 0.0
        for phase in self._phases:
            slower = _THAWED if self._known.frozen and not phase.frozen else 1.0
            learning, answering = epoch * of_steps * slower, epoch * (1 - of_steps)
            left += (learning + answering) * max(0, phase.last - max(done, phase.first - 1))
            if phase.first <= done + 1 <= phase.last:
                left -= learning * step / shares.steps
        return left

    def _leave_the_phase_before(self) -> None:
        if self._known != self._running:
            self._known = self._running
            self._full, self._measured = [], 0
            self._steps, self._step_seconds = 0.0, 0.0


def answers_afterwards(*, validation: int, test: int, precisions: int, mirrored: bool) -> int:
    """How often the network answers an image after the last epoch.

    The validation split once, to be calibrated; the test split as it is, calibrated, and in each lower precision. Each
    `mirrored` too, where the mean over both is the answer.
    """
    return (validation + (2 + precisions) * test) * (2 if mirrored else 1)


class Afterwards:
    """How long it takes from the last epoch to the end of the job: remembered from job to job in a file.

    It is a constant and the time for so many answers (`answers_afterwards`); the constant (loading a second engine,
    drawing, converting, writing) is a machine's, whatever was trained, and is what is remembered.
    """

    _FILE = "afterwards.json"
    _KEPT = 5
    _UNKNOWN = 5.0

    def __init__(self, folder: Path) -> None:
        """`folder`: for the file. An estimate is never worth a job: a file that cannot be used is passed over."""
        self._path = folder / self._FILE

    def seconds(self, answers: int, seconds_per_answer: float) -> float:
        """With so many answers."""
        known = self._constants()
        constant = statistics.median(known) if known else self._UNKNOWN
        return constant + answers * seconds_per_answer

    def remember(self, seconds: float, answers: int, seconds_per_answer: float) -> None:
        """It took so long, with so many answers."""
        constant = max(0.0, seconds - answers * seconds_per_answer)
        constants = [*self._constants(), round(constant, 2)][-self._KEPT :]
        # Several jobs may end at a time.
        aside = self._path.with_suffix(f".{os.getpid()}.new")
        with suppress(OSError):
            try:
                aside.write_text(json.dumps(constants), encoding="utf-8")
                aside.replace(self._path)
            except OSError:
                aside.unlink(missing_ok=True)

    def _constants(self) -> list[float]:
        try:
            known = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        fine = isinstance(known, list) and all(isinstance(value, int | float) and value >= 0 for value in known)
        return [float(value) for value in known] if fine else []
