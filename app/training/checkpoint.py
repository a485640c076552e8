"""A training run's whole state in one file, replaced atomically after each epoch."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_FILE = "state.npz"

Arrays = list[npt.NDArray[Any]]


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
    """All that a resumed run needs to go on as if it had never stopped.

    `variables`: of the model, with its random seeds; `optimizer`: with its step counter; `average`: the moving
    average of the weights, if one is kept; `best`: the weights of `best_epoch`.
    """

    variables: Arrays
    optimizer: Arrays
    average: Arrays
    best: Arrays
    best_epoch: int
    history: list[Epoch] = field(default_factory=list)

    def save(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        arrays = {
            f"{group}_{number:04d}": array
            for group in ("variables", "optimizer", "average", "best")
            for number, array in enumerate(getattr(self, group))
        }
        meta = json.dumps({"best_epoch": self.best_epoch, "history": [asdict(epoch) for epoch in self.history]})
        temporary = folder / f".{_FILE}"
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, meta=np.frombuffer(meta.encode(), np.uint8), **arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / _FILE)

    @classmethod
    def load(cls, folder: Path) -> Checkpoint | None:
        """The last checkpoint, or None where no epoch was finished."""
        try:
            loaded = np.load(folder / _FILE, allow_pickle=False)
        except FileNotFoundError:
            return None
        with loaded:
            meta = json.loads(loaded["meta"].tobytes())

            def group(name: str) -> Arrays:
                return [loaded[key] for key in sorted(loaded.files) if key.startswith(f"{name}_")]

            return cls(
                variables=group("variables"),
                optimizer=group("optimizer"),
                average=group("average"),
                best=group("best"),
                best_epoch=meta["best_epoch"],
                history=[Epoch(**epoch) for epoch in meta["history"]],
            )
