"""For those who launch a few trainers themselves, and cannot tell a scheduler that is away from trainers that died."""

from __future__ import annotations

from collections.abc import Callable

from app.errors import TrainingFailed
from app.jobs.executors.base import Executor, Exit
from app.jobs.folder import FINAL, JobFolder

# Problems that are told of; where each is another one the log is spared the rest.
_MOST_TOLD = 20


class Patient:
    """An executor that never says "not now": what cannot be sent waits, what is not known is taken to live.

    Why is told, once. Only where nothing may be sent, whatever it is, waiting is of no use. A
    trainer that did not begin through no fault of its own is sent again. The supervisor needs
    none of this: it sees to it itself, for all jobs of a workspace.
    """

    def __init__(self, executor: Executor, tell: Callable[[str], None]) -> None:
        """`tell`: takes a line about what is in the way."""
        self.capacity = executor.capacity
        self._executor = executor
        self._tell = tell
        self._told: set[str] = set()
        self._unsent: set[str] = set()
        self._given_up: set[str] = set()

    def launch(self, job: JobFolder) -> None:
        """Start a trainer on `job`, now or as soon as that can be.

        Raises:
            TrainingFailed: it cannot be started, for the reason given.
        """
        self._unsent.add(job.id)
        self._given_up.discard(job.id)
        try:
            self._executor.launch(job)
        except PermissionError as error:
            self._unsent.discard(job.id)
            raise TrainingFailed(f"A trainer cannot be sent: {error}") from error
        except OSError as error:
            self._complain(error)
            return
        self._unsent.discard(job.id)

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer is at work on `job`, or will be, as far as is known.

        Raises:
            TrainingFailed: one that was still to be sent cannot be, for the reason given.
        """
        if job.id in self._given_up:
            # What waits for a place cannot be ended. Once it has one it finds the job ended, and does nothing.
            return job.alive
        try:
            alive = self._executor.alive(job)
        except OSError as error:
            if isinstance(error, PermissionError) and job.id in self._unsent and not job.cancel_requested:
                self._unsent.discard(job.id)
                raise TrainingFailed(f"A trainer cannot be sent: {error}") from error
            self._complain(error)
            return True
        if alive:
            # What seemed not to be sent may have arrived.
            self._unsent.discard(job.id)
            return True
        ending = self._executor.collect(job)
        refused = ending is not None and ending.refused
        if (refused or job.id in self._unsent) and not job.cancel_requested and job.state().state not in FINAL:
            self.launch(job)
            return True
        self._unsent.discard(job.id)
        return False

    def collect(self, job: JobFolder) -> Exit | None:
        """Nothing: how a trainer ended is needed here to tell those that are sent again."""
        return None

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Ask the trainer of `job` to end, or with `force` make it. If that cannot be now, the caller asks again."""
        self._unsent.discard(job.id)
        if force:
            self._given_up.add(job.id)
        try:
            self._executor.end(job, force=force)
        except OSError as error:
            self._complain(error)

    def _complain(self, error: OSError) -> None:
        problem = str(error)
        if problem not in self._told and len(self._told) < _MOST_TOLD:
            self._told.add(problem)
            self._tell(f"{problem} It is tried again.")
