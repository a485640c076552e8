"""A training run's whole state in one file, written aside and renamed; the last two are kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from app.store.storage import sync_folder

Arrays = list[npt.NDArray[Any]]

# Of what is in the files. Those of another format are removed.
_FORMAT = 2
_GENERATIONS = 2
_GROUPS = ("variables", "optimizer", "average", "best", "sums")
_UNFINISHED = ".writing"
# Epochs finished, steps done in the one after them, and the beginning of the content's SHA-256.
_NAME = re.compile(r"\d{6}-\d{9}-([0-9a-f]{16})\.npz")
_DIGITS = 16
# What a disk must have left beyond the checkpoint itself, in bytes: those who share it live on it.
_SPARE = 16 * 2**20


@dataclass
class Epoch:
    """What one epoch came to."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    learning_rate: float
    seconds: float


@dataclass
class Checkpoint:
    """All that a resumed run needs to go on as if it had never stopped."""

    variables: Arrays
    """Of the model, with its random seeds."""
    optimizer: Arrays
    """With its step counter."""
    average: Arrays
    """The moving average of the weights, if one is kept."""
    best: Arrays
    """The weights of `best_epoch`."""
    best_epoch: int
    history: list[Epoch] = field(default_factory=list)
    step: int = 0
    """Steps done in the epoch after those of the history."""
    sums: Arrays = field(default_factory=list)
    """What those steps have summed up to: loss and right answers."""
    seconds: float = 0.0
    """Time that those steps took."""
    threads: int | None = None
    """Of the processor. With another number sums are taken in another order, and last bits differ."""

    def save(self, folder: Path) -> None:
        """Write the state; the generation before it stays, older ones go.

        Raises:
            OSError: the disk refused, or has too little space left; nothing of the attempt stays behind.
        """
        folder.mkdir(exist_ok=True)
        arrays = {
            f"{group}_{number:04d}": array for group in _GROUPS for number, array in enumerate(getattr(self, group))
        }
        _check_space(folder, sum(array.nbytes for array in arrays.values()))
        meta = {
            "format": _FORMAT,
            "best_epoch": self.best_epoch,
            "history": [asdict(epoch) for epoch in self.history],
            "step": self.step,
            "seconds": self.seconds,
            "threads": self.threads,
        }
        unfinished = folder / _UNFINISHED
        try:
            with unfinished.open("w+b") as file:
                np.savez(file, allow_pickle=False, meta=np.frombuffer(json.dumps(meta).encode(), np.uint8), **arrays)
                file.flush()
                os.fsync(file.fileno())
                digest = _digest(file)
            unfinished.replace(folder / f"{len(self.history):06d}-{self.step:09d}-{digest}.npz")
            sync_folder(folder)
        finally:
            unfinished.unlink(missing_ok=True)
        for old in _files(folder)[:-_GENERATIONS]:
            old.unlink(missing_ok=True)

    @classmethod
    def load(cls, folder: Path, say: Callable[[str], None] = lambda _: None) -> Checkpoint | None:
        """The last whole checkpoint, or None where there is none.

        Those that are torn or of another format are removed, and `say` hears it. A torn file is what a machine that
        lost its power may leave, whatever the order in which things were written.
        """
        for path in reversed(_files(folder)):
            with path.open("rb") as file:
                if f"-{_digest(file)}.npz" in path.name:
                    state = cls._read(file)
                    if state is not None:
                        return state
                    say(f"the checkpoint {path.name} is of another release, and removed")
                else:
                    say(f"the checkpoint {path.name} is damaged; going on from the one before it")
            # Also because what is saved next may have a lower number, and would be taken for the older one.
            path.unlink(missing_ok=True)
        return None

    @staticmethod
    def remove(folder: Path) -> None:
        """Remove all checkpoints, before a run that begins anew: theirs are of higher numbers than its own."""
        for path in _files(folder):
            path.unlink(missing_ok=True)

    @classmethod
    def _read(cls, file: Any) -> Checkpoint | None:
        file.seek(0)
        with np.load(file, allow_pickle=False) as loaded:
            meta = json.loads(loaded["meta"].tobytes())
            if meta.pop("format", None) != _FORMAT:
                return None
            meta |= {
                group: [loaded[key] for key in sorted(loaded.files) if key.startswith(f"{group}_")] for group in _GROUPS
            }
        return cls(**meta | {"history": [Epoch(**epoch) for epoch in meta["history"]]})


def _files(folder: Path) -> list[Path]:
    """Checkpoints, the oldest first: their names sort by epoch and step."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []


def _digest(file: Any) -> str:
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()[:_DIGITS]


def _check_space(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        what = f"no space left for a checkpoint of {size / 1e6:.1f} MB ({free / 1e6:.1f} MB are free)"
        raise OSError(errno.ENOSPC, what, str(folder))
