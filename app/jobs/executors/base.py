"""What every way of running trainers must do, whatever it is made of."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import Protocol, Self

from app.jobs.folder import JobFolder

# What `python -m app.training` exits with when the job's lock is taken.
EXIT_LOCKED = 3


@dataclass(frozen=True)
class Exit:
    """How a trainer ended, as far as its launcher saw it."""

    description: str
    """For people, to stand after "the trainer": "was killed by SIGKILL (perhaps out of memory)"."""

    refused: bool = False
    """It did not begin, and the job is not at fault: another process holds it, or there was no room for it."""

    @classmethod
    def of_status(cls, status: int) -> Self:
        """What a trainer's exit status says; a negative one is the signal that killed it."""
        if status == EXIT_LOCKED:
            return cls("found the job taken", refused=True)
        if status >= 0:
            return cls(f"ended with exit status {status}")
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        hint = " (perhaps out of memory)" if -status == signal.SIGKILL else ""
        return cls(f"was killed by {name}{hint}")


class Executor(Protocol):
    """Launches trainers, sees whether they live, and ends them. It decides nothing: `app.jobs.supervisor` does.

    Called by one thread at a time. A trainer outlives its launcher, and every method but
    `launch` must work for one that another process launched.
    """

    capacity: int
    """How many trainers may live at a time, those that wait for a place on another machine among them."""

    def launch(self, job: JobFolder) -> None:
        """Start a trainer on `job` and return without waiting for it.

        Raises:
            TrainingFailed: it cannot be started, for the reason given.
            OSError: not now; the job waits for another try. A PermissionError: nor later, as things are.
        """
        ...

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer is starting or at work on `job`, or waits for its place, whoever launched it.

        Raises:
            OSError: that cannot be found out now.
        """
        ...

    def collect(self, job: JobFolder) -> Exit | None:
        """How the trainer that this executor launched on `job` ended; told once. None: not known, or none ended."""
        ...

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Ask the trainer of `job` to end, or with `force` make it. Nothing happens if none is found."""
        ...
