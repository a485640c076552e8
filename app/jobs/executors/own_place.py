"""For a trainer that holds a place and only waits in it: what it launches gets that place first, others elsewhere."""

from __future__ import annotations

import time

from app.jobs.executors.base import Executor, Exit
from app.jobs.folder import JobFolder

# How long another place is hoped for while this one is free. Also what a scheduler may take to start a trainer.
_PATIENCE = 5.0


class OwnPlaceFirst:
    """One trainer at a time in the place of this process, the others where an executor finds places for them.

    Whoever holds a place while it waits for others to get one can wait for ever, if all places
    are held by such. So none is needed but the one that is held: what still waits elsewhere
    when that one is free is run in it, and what comes of it elsewhere finds the job taken, or ended.
    """

    def __init__(self, here: Executor, elsewhere: Executor, *, patience: float = _PATIENCE) -> None:
        """Launch nothing yet.

        Args:
            here: launches in the place of this process.
            elsewhere: queues, and takes what waits to live. It never says "not now".
            patience: seconds that a trainer waits elsewhere before it takes a free place here.
        """
        self.capacity = 1 + elsewhere.capacity
        self._here = here
        self._elsewhere = elsewhere
        self._patience = patience
        self._tenant: JobFolder | None = None
        self._sent: set[str] = set()
        self._waits_since: dict[str, float] = {}

    def launch(self, job: JobFolder) -> None:
        """Start a trainer on `job`: here if nobody is, else elsewhere.

        Raises:
            TrainingFailed: it cannot be started, for the reason given.
        """
        if self._is_free():
            self._take_in(job)
        else:
            self._sent.add(job.id)
            self._elsewhere.launch(job)

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer is starting or at work on `job`, or waits for its place, whoever launched it."""
        if self._is_here(job):
            if self._here.alive(job):
                self._tenant = self._tenant or job
                return True
            if self._tenant is not None and self._tenant.id == job.id:
                self._tenant = None
            ending = self._here.collect(job)
            if ending is None or not ending.refused:
                return False
            # It has got its place elsewhere at the same moment.
            self._sent.add(job.id)
        if not self._elsewhere.alive(job):
            self._waits_since.pop(job.id, None)
            return False
        if job.alive:
            self._waits_since.pop(job.id, None)
            return True
        at = time.monotonic()
        waited = at - self._waits_since.setdefault(job.id, at)
        if waited >= self._patience and not job.cancel_requested and self._is_free():
            self._take_in(job)
        return True

    def collect(self, job: JobFolder) -> Exit | None:
        """How a trainer that was launched elsewhere ended; of one here that is needed to see where it is."""
        return self._elsewhere.collect(job)

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Ask the trainer of `job` to end, or with `force` make it."""
        (self._here if self._is_here(job) else self._elsewhere).end(job, force=force)

    def _is_here(self, job: JobFolder) -> bool:
        """Whether `job` is run here, or was by who held this place before."""
        if self._tenant is not None and self._tenant.id == job.id:
            return True
        return job.id not in self._sent and job.placement() is None

    def _is_free(self) -> bool:
        return self._tenant is None or not self.alive(self._tenant)

    def _take_in(self, job: JobFolder) -> None:
        self._here.launch(job)
        self._tenant = job
        self._sent.discard(job.id)
        self._waits_since.pop(job.id, None)
        # Where it was sent before does not matter any more.
        job.forget_placement()
