"""What every way of running trainers must do, whatever it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from app.jobs.folder import JobFolder


@dataclass(frozen=True)
class Exit:
    """How a trainer ended, as far as its launcher saw it."""

    description: str
    """For people, to stand after "the trainer": "was killed by SIGKILL (perhaps out of memory)"."""

    refused: bool = False
    """It did not begin, because another process holds the job."""


class Executor(Protocol):
    """Launches trainers, sees whether they live, and ends them. It decides nothing: `app.jobs.supervisor` does.

    Called by one thread at a time. A trainer outlives its launcher, and every method but
    `launch` must work for one that another process launched.
    """

    capacity: int
    """How many trainers may live at a time."""

    def launch(self, job: JobFolder) -> None:
        """Start a trainer on `job` and return without waiting for it.

        Raises:
            TrainingFailed: it cannot be started, for the reason given.
        """
        ...

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer is starting or at work on `job`, whoever launched it."""
        ...

    def collect(self, job: JobFolder) -> Exit | None:
        """How the trainer that this executor launched on `job` ended; told once. None: not known, or none ended."""
        ...

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Ask the trainer of `job` to end, or with `force` make it. Nothing happens if none is found."""
        ...
