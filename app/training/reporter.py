"""What a running job tells the outside: progress lines, the log, and whether it was asked to stop."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Literal

from app.jobs.folder import JobFolder, Progress, now

Phase = Literal["search", "dataset", "fit", "evaluate", "export", "register", "promote"]

# From the export on, a version comes into being: a job that is about to be done is not cancelled any more.
_CANCELLABLE: frozenset[Phase] = frozenset({"search", "dataset", "fit", "evaluate"})

# How old the last look at the cancel marker may be, in seconds.
_CANCEL_INTERVAL = 0.5


class Cancelled(Exception):
    """The job was asked to stop."""


class Reporter:
    """Appends to `progress.jsonl` and prints to the log."""

    def __init__(self, job: JobFolder, attempt: int) -> None:
        self._job = job
        self._attempt = attempt
        self._looked = 0.0
        # An earlier attempt may have registered its version and died before it could say so.
        self._cancellable = not job.export_begun

    def phase(self, phase: Phase, message: str) -> None:
        """Enter a phase, or say what it does now.

        Raises:
            Cancelled: the job was asked to stop, and the phase can be.
        """
        self.say(f"{phase}: {message}")
        self._job.append(Progress(at=now(), attempt=self._attempt, phase=phase, message=message))
        if phase in _CANCELLABLE:
            self.check_cancelled(at_once=True)

    def epoch(self, line: str, **values: float | int | None) -> None:
        """Report a finished epoch; `values` are fields of `Progress`."""
        self._tell("fit", line, **values)

    def step(self, line: str, *, step: int, steps: int, remaining_seconds: float) -> None:
        """Report a checkpoint amid an epoch, after `step` of its `steps`."""
        self._tell("fit", line, step=step, steps=steps, remaining_seconds=remaining_seconds)

    def search(
        self, line: str, *, trial: int | None = None, trials: int | None = None, remaining_seconds: float | None = None
    ) -> None:
        """Report on a search; `trial`: how many of its `trials` have ended, on the lines that tell of an end."""
        self._tell("search", line, trial=trial, trials=trials, remaining_seconds=remaining_seconds)

    def _tell(self, phase: Phase, line: str, **values: float | int | None) -> None:
        self.say(line)
        self._job.append(
            Progress.model_validate({"at": now(), "attempt": self._attempt, "phase": phase, "message": line, **values})
        )

    def say(self, line: str) -> None:
        """Print a line for the log; on a full disk it is lost, and what matters fails by itself."""
        with suppress(OSError):
            print(f"{now():%Y-%m-%d %H:%M:%S} {line}", flush=True)

    def check_cancelled(self, *, at_once: bool = False) -> None:
        """Raise Cancelled if the job was asked to stop; cheap enough for every step.

        Raises:
            Cancelled: the marker is there, and no attempt has come to the export yet.
        """
        if not at_once and time.monotonic() - self._looked < _CANCEL_INTERVAL:
            return
        self._looked = time.monotonic()
        if self._cancellable and self._job.cancel_requested:
            raise Cancelled
