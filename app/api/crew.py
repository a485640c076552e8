"""What the processes that share a port tell each other, through small files in a folder that their parent made."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from app.api.accepting import Occupancy

_COMPLETE = "complete"
_OCCUPANCY = "occupancy"
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Crew:
    """One process's place among those that share the port; without a folder it is alone.

    Each says that it has loaded its models, and the parent then says that all have. What is once complete stays so:
    a process that dies is replaced by one that loads before it accepts connections, so that nobody need know.
    """

    folder: Path | None = None
    number: int = 0
    size: int = 1
    loads_first: bool = False
    """Whether this process loads its models before it accepts connections. The very first one doesn't, so that probes
    are answered from the start; any other would take requests that it cannot answer from one that can."""

    def prepare(self) -> None:
        """Make what the processes share; the parent does, before it starts them."""
        assert self.folder is not None
        Occupancy.create(self.folder / _OCCUPANCY, self.size)

    @cached_property
    def occupancy(self) -> Occupancy | None:
        """How many connections each holds; None if this process is alone."""
        return None if self.folder is None else Occupancy(self.folder / _OCCUPANCY)

    def report_loaded(self) -> None:
        """Say that this process has looked at every model, and loaded what can be."""
        if self.folder is not None:
            self._loaded(self.number).touch()

    @property
    def all_loaded(self) -> bool:
        """Whether every process has said so; for the parent."""
        return all(self._loaded(number).exists() for number in range(self.size))

    def report_complete(self) -> None:
        """Say that the service is there; the parent does."""
        if self.folder is not None:
            (self.folder / _COMPLETE).touch()

    @property
    def complete(self) -> bool:
        """Whether the parent has said so. Looked up at each probe: it costs some microseconds."""
        return self.folder is None or (self.folder / _COMPLETE).exists()

    async def wait(self) -> None:
        """Return when the service is complete."""
        while not self.complete:  # noqa: ASYNC110 - it is another process that says so
            await asyncio.sleep(_POLL_SECONDS)

    def _loaded(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / f"loaded-{number}"
