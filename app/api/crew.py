"""What the processes that share a port tell each other, through small files in a folder that their parent made."""

from __future__ import annotations

import asyncio
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from app.api.accepting import Occupancy
from app.cores import available_cores
from app.serving.sizing import Suitable
from app.settings import Settings

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
        self.folder.mkdir()
        Occupancy.create(self.folder / _OCCUPANCY, self.size)

    @cached_property
    def occupancy(self) -> Occupancy | None:
        """How many connections each holds; None if this process is alone."""
        return None if self.folder is None else Occupancy(self.folder / _OCCUPANCY)

    @property
    def cores(self) -> int:
        """This process's part of the cores, at least one."""
        return max(1, available_cores() // self.size)

    def share(self, settings: Settings) -> Settings:
        """The settings with this process's part of the cores and of the places in the queue, for the rooms below."""
        places = max(math.ceil(settings.max_queue / self.size), min(settings.max_queue, settings.max_files))
        return settings.model_copy(
            update={
                "lanes": settings.lanes or self.cores,
                "inference_threads": settings.inference_threads or self.cores,
                "max_queue": places,
            }
        )

    def report_loaded(self, suitable: Suitable) -> None:
        """Say that this process has looked at every model, and how many processes would suit them."""
        if self.folder is not None:
            file = self._loaded(self.number)
            begun = file.with_name(f".{file.name}")
            begun.write_text(json.dumps([suitable.workers, dict(suitable.models)]), "utf-8")
            begun.replace(file)

    @property
    def suitable(self) -> Suitable:
        """How many processes would suit, as the first said when it had loaded; for the parent."""
        return Suitable(*json.loads(self._loaded(0).read_text("utf-8")))

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
