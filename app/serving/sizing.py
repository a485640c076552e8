"""How many processes suit the models, and the memory of it. Imports little: what starts the processes needs it."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.serving.private_folder import open_private, replace_file

# An image that takes less than this, decoded and classified, costs about as much in Python, under the interpreter's
# lock: only another process makes use of another core.
_SMALL_SECONDS = 0.002
# What an image holds the interpreter's lock for at the most. A process can keep as many cores busy as this goes into
# the seconds that an image takes.
_LOCKED_SECONDS = 0.0005
MOST = 64
_FILE = "workers.json"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Suitable:
    """How many processes suit which models."""

    workers: int
    models: Mapping[str, int]
    """Versions in production, by name."""


def suitable_workers(seconds: Sequence[float], cores: int, *, worker_bytes: int | None, free_bytes: int | None) -> int:
    """How many processes serve best.

    With several models the one that is fastest decides: too few processes would cost it most of the cores, too many
    cost the others nothing but memory, of which at most half of what is free is taken.

    Args:
        seconds: that an image takes to be decoded and classified on one core, for each model in production.
        cores: that the processes share.
        worker_bytes: memory that one takes; None if it is not known, and then memory is no bound.
        free_bytes: memory that is left beside one; None as above.
    """
    if not seconds:
        return 1
    least = min(seconds)
    wanted = cores if least <= _SMALL_SECONDS else math.ceil(cores * _LOCKED_SECONDS / least)
    affordable = MOST
    if worker_bytes is not None and free_bytes is not None:
        affordable = 1 + max(0, free_bytes // 2) // max(1, worker_bytes)
    return max(1, min(wanted, cores, affordable, MOST))


class Sizing:
    """The number that was found to suit, kept in a file so that the next start begins with it.

    Nothing here fails: without the file the number is found anew.
    """

    def __init__(self, cache: Path, cores: int) -> None:
        """`cache` is the folder of the settings; made when something is kept."""
        self._folder = cache / "workers"
        self._cores = cores

    def recall(self, models: Mapping[str, int] | None = None) -> int | None:
        """What suited on so many cores, the last time; None if it is not known.

        With `models`, names and versions in production: only if it was for the same.
        """
        with suppress(OSError, ValueError, KeyError, TypeError):
            if not open_private(self._folder, create=False):
                return None
            kept = json.loads((self._folder / _FILE).read_text("utf-8"))
            workers = kept["workers"]
            same = kept["cores"] == self._cores and (models is None or kept["models"] == dict(models))
            if same and isinstance(workers, int) and 1 <= workers <= MOST:
                return workers
        return None

    def settle(self, running: int, suitable: Suitable) -> None:
        """Remember how many processes run, if so many suit; else forget it, and the next start finds it anew.

        To be called when all of them serve: a number that was never seen to work must not be what a start begins with.
        Without a model there was nothing to tell from, and nothing changes.
        """
        if not suitable.models:
            return
        try:
            if running != suitable.workers:
                (self._folder / _FILE).unlink(missing_ok=True)
            elif open_private(self._folder, create=True):
                kept = {"workers": running, "cores": self._cores, "models": dict(suitable.models)}
                replace_file(self._folder / _FILE, json.dumps(kept).encode())
        except OSError as error:
            _log.warning("The number of workers that suits is not remembered: %s", error.strerror)


def own_memory() -> int | None:
    """Bytes that this process takes; None where the system does not say."""
    return _kilobytes(Path("/proc/self/status"), "VmRSS:")


def free_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that can still be taken, on this machine and in this container; None where the system does not say."""
    free = _kilobytes(Path("/proc/meminfo"), "MemAvailable:")
    with suppress(OSError, ValueError):  # no cgroup, or no limit
        limit, used = (int((cgroup / name).read_text()) for name in ("memory.max", "memory.current"))
        left = max(0, limit - used)
        free = left if free is None else min(free, left)
    return free


def _kilobytes(file: Path, name: str) -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        line = next(line for line in file.read_text().splitlines() if line.startswith(name))
        return int(line.split()[1]) * 1024
    return None
