"""For those who launch a few trainers themselves, and cannot tell a scheduler that is away from trainers that died."""

from __future__ import annotations

from app.jobs.executors.base import Executor, Exit
from app.jobs.folder import FINAL, JobFolder


class Patient:
    """An executor that never says "not now": what cannot be sent waits, what is not known is taken to live.

    A trainer that did not begin through no fault of its own is sent again. The supervisor needs
    none of this: it sees to it itself, for all jobs of a workspace.
    """

    def __init__(self, executor: Executor) -> None:
        self.capacity = executor.capacity
        self._executor = executor
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
        except OSError:
            return
        self._unsent.discard(job.id)

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer is at work on `job`, or will be, as far as is known."""
        if job.id in self._given_up:
            # What waits for a place cannot be ended. Once it has one it finds the job ended, and does nothing.
            return job.alive
        try:
            alive = self._executor.alive(job)
        except OSError:
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
        except OSError:
            return
