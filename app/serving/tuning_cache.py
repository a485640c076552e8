"""The choice of engines on disk: what was measured once on this kind of processor is not measured again.

It holds for all versions of one kind: a network that is trained again is not timed again. That each version answers
rightly on the engine is checked at every load, so that it does not rest on the kind being told rightly.

Nothing here fails: a cache that cannot be read or written only means that a version is timed when it is loaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.serving.likeness import Kind, digest
from app.serving.private_folder import keeps_files, open_private, replace_file
from app.serving.tuning import Tuning
from app.store.manifest import Precision

try:
    import fcntl
except ImportError:  # not on Windows, where workers may measure at the same time
    fcntl = None  # type: ignore[assignment]

MAX_FILES = 256
# Measuring takes about a second, and below all others some more; a process that holds the lock for longer is stopped,
# or swaps.
_PATIENCE = 30.0

_log = logging.getLogger(__name__)


class Choice(BaseModel):
    """`<key>.json`: which engine runs versions of a kind, and what was measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    circumstances: dict[str, str | int] = Field(description="What the choice holds for; the key is made of it.")
    engine: str
    precision: Precision
    wide: bool = Field(description="Whether a lone image is faster on all threads than on a lane's.")
    best_batch: int = Field(ge=1)
    seconds_per_image: float = Field(gt=0, allow_inf_nan=False)
    lone_seconds: float = Field(gt=0, allow_inf_nan=False)
    candidates: dict[str, float]
    provisional: bool = Field(
        False, description="Measured while other versions answered; the next start, when none does, measures anew."
    )
    measured_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    def tuning(self, *, decode_seconds: float) -> Tuning:
        """The choice as a loaded version has it; decoding is timed at every load."""
        return Tuning(
            engine=self.engine,
            precision=self.precision,
            best_batch=self.best_batch,
            seconds_per_image=self.seconds_per_image,
            lone_seconds=self.lone_seconds,
            decode_seconds=decode_seconds,
            candidates=self.candidates,
        )


class TuningCache:
    """One file for each kind of version, kind of processor, number of lanes and threads, and version of the engines."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when it is needed."""
        self._folder = folder

    def usable(self) -> bool:
        """Whether what is stored is found again, by this process and by others of this user's."""
        return keeps_files(self._folder)

    def load(self, kind: Kind, circumstances: Mapping[str, str | int]) -> Choice | None:
        """What was measured under these circumstances, if it was and can be read."""
        path = self._path(kind, circumstances)
        try:
            if not open_private(self._folder, create=False):
                return None
            choice = Choice.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            _log.warning("%s cannot be read, and is made anew: %s", path, error)
            return None
        return choice if choice.circumstances == dict(circumstances) else None

    def store(self, kind: Kind, choice: Choice) -> None:
        """Keep a choice, in place of those that were made longest ago."""
        path = self._path(kind, choice.circumstances)
        try:
            if open_private(self._folder, create=True):
                replace_file(path, choice.model_dump_json(indent=2).encode())
                self._prune()
        except OSError as error:
            _log.info("The choice of an engine is not kept: %s", error)

    def of(self, kind: Kind) -> list[Choice]:
        """All choices for a kind of version, the newest first; for people."""
        choices = []
        try:
            if not open_private(self._folder, create=False):
                return []
            for path in self._folder.glob(f"{digest(kind)}-*.json"):
                with suppress(OSError, ValidationError):
                    choices.append(Choice.model_validate_json(path.read_bytes()))
        except OSError:
            return []
        return sorted(choices, key=lambda choice: choice.measured_at, reverse=True)

    @contextmanager
    def turn(self, stopping: threading.Event) -> Iterator[None]:
        """Let one process at a time measure: two would slow each other down, and the second can take what the first
        one found. Waits for half a minute at most, and no longer than until `stopping` is set.
        """
        with ExitStack() as stack:
            # Without a lock file, each measures for itself.
            with suppress(OSError):
                if fcntl is not None and open_private(self._folder, create=True):
                    _lock(stack.enter_context((self._folder / ".lock").open("wb")).fileno(), stopping)
            yield

    def _path(self, kind: Kind, circumstances: Mapping[str, str | int]) -> Path:
        return self._folder / f"{digest(kind)}-{digest(dict(circumstances))}.json"

    def _prune(self) -> None:
        files = []
        for path in self._folder.glob("*.json"):
            with suppress(OSError):  # another process may have removed it
                files.append((path.stat().st_mtime, path))
        for _, path in sorted(files, reverse=True)[MAX_FILES:]:
            with suppress(OSError):
                path.unlink()


def _lock(descriptor: int, stopping: threading.Event) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline or stopping.wait(0.01):
                return
