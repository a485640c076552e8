"""The processes of a search's trials: launched, launched again where they die, and ended where they do not end."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Protocol

from app.jobs import out_of_memory
from app.jobs.folder import FINAL, JobFolder
from app.jobs.trials import TrialFolder

# A trial that dies so often without a checkpoint in between has failed.
_DEATHS = 3

# What a trial that is to end gets before it is asked to by SIGTERM, and from then on before it is killed. Where the
# whole job is to end there is less: the job's own process gets no more than 5 and 3 seconds.
_GRACE, _KILL_GRACE = 5.0, 3.0
_LAST_GRACE = 3.0


class Launcher(Protocol):
    """Runs trials, here or elsewhere: `python -m app.training.trial FOLDER`, which holds the folder's lock.

    An `Executor` is one. Every method but `launch` must work for a trial that another process launched.
    """

    def launch(self, job: JobFolder) -> None:
        """Start the trial in that folder and return without waiting for it.

        Raises:
            TrainingFailed: it cannot be started, for the reason given.
        """
        ...

    def alive(self, job: JobFolder) -> bool:
        """Whether it is starting or at work."""
        ...

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Ask it to end, or with `force` make it. Nothing happens if it is not there."""
        ...


class TrialProcesses:
    """Sees to the process of each trial; what becomes of the trial stands in its folder."""

    def __init__(self, launcher: Launcher) -> None:
        self._launcher = launcher
        self._attempt_at_launch: dict[int, int] = {}
        self._due_since: dict[int, float] = {}

    def alive(self, trial: TrialFolder) -> bool:
        """Whether the trial is starting or at work."""
        return self._launcher.alive(trial)

    def settle(self, trial: TrialFolder) -> None:
        """Go on with a trial that nobody is at work on and that has not ended: launch it, or give it up."""
        with trial.hold() as held:
            if not held:
                return
            state = trial.state()
            if state.state in FINAL:
                return
            if self._attempt_at_launch.get(trial.number) == state.attempt:
                # It died before it could say that it had begun: that counts, or it would be tried for ever.
                state = state.begun()
                trial.write_state(state)
            self._attempt_at_launch.pop(trial.number, None)
            if trial.stopped() is not None:
                trial.write_state(state.ended("cancelled"))
                return
            fruitful = max((line.attempt for line in trial.checkpoints()), default=0)
            if state.attempt - fruitful >= _DEATHS:
                reason = (
                    f"Its process died {_DEATHS} times without a checkpoint in between. If it was memory: "
                    f"{out_of_memory.advice(trial)}"
                )
                trial.write_state(state.ended("failed", reason))
                return
        self._attempt_at_launch[trial.number] = state.attempt
        self._launcher.launch(trial)

    def see_to_end(self, trial: TrialFolder) -> None:
        """Look after a trial that lives and has nothing more to do: in time it is asked to end, and then made to."""
        waited = time.monotonic() - self._due_since.setdefault(trial.number, time.monotonic())
        if waited >= _GRACE:
            self._launcher.end(trial, force=waited >= _GRACE + _KILL_GRACE)

    def end_all(self, trials: list[TrialFolder], *, poll: float) -> None:
        """Leave no trial behind where the job ends: each has a moment to see it by itself.

        Args:
            trials: those that have not ended, as far as is known.
            poll: seconds between looks at them.
        """
        # What ended the search, a full disk perhaps, is what is to be told.
        with suppress(OSError):
            for trial in trials:
                if trial.stopped() is None and not trial.job.cancel_requested:
                    trial.stop("stopped")
            deadline = time.monotonic() + _LAST_GRACE
            while any(self._launcher.alive(trial) for trial in trials) and time.monotonic() < deadline:
                time.sleep(poll)
            for trial in trials:
                if self._launcher.alive(trial):
                    self._launcher.end(trial, force=True)
            for trial in trials:
                with trial.hold() as held:
                    if held and (state := trial.state()).state not in FINAL:
                        trial.write_state(state.ended("cancelled"))
