"""Which images a version learned from, so that it is not asked about them in a comparison.

They are those of its training split. Those of its validation split only chose among its epochs and
trials, and are asked about.

For each image the first four bytes of its SHA-256: the chance that a strange image is taken for one of a million is
one in four thousand, and all that happens then is that it is not asked about.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from app.store.manifest import TRAINED_ON
from app.training.dataset import TrainingData

Prefixes = npt.NDArray[np.uint32]


def write_trained_on(staged: Path, data: TrainingData) -> None:
    """Write `trained_on.bin` into a staged version: the training split, which the weights were fitted to."""
    prefixes = np.unique(_prefixes([data.source.contents[position] for position in data.train.tolist()]))
    (staged / TRAINED_ON).write_bytes(prefixes.astype(">u4").tobytes())


def read_trained_on(folder: Path) -> Prefixes | None:
    """What a version learned from, ascending; None where it does not say."""
    try:
        content = (folder / TRAINED_ON).read_bytes()
    except FileNotFoundError:
        return None
    return np.frombuffer(content[: len(content) // 4 * 4], ">u4").astype(np.uint32)


def among(contents: list[str], prefixes: Prefixes) -> npt.NDArray[np.bool_]:
    """Whether each image, by its SHA-256 in hexadecimal, is among those learned from."""
    return np.isin(_prefixes(contents), prefixes)


def _prefixes(contents: list[str]) -> Prefixes:
    return np.array([int(content[:8], 16) for content in contents], np.uint32)
