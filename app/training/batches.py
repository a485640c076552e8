"""The order in which a run sees its images, and their way from the disk to the steps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from app.preprocessing import Preprocessing, UInt8Array
from app.training.dataset import TrainingData
from app.training.sources import Targets
from app.training.splits import Indices

# What is loaded at once: enough to make the way into the graph cheap, no more than memory can spare, and soon done,
# since a run hears of its cancelling between two chunks.
_BYTES = 4 * 2**20
_SECONDS = 0.25

# Images answered at once when nothing is learnt: their number, and the bytes that they may take as float32.
_ANSWERED = 256
_ANSWERED_BYTES = 16 * 2**20


@dataclass(frozen=True)
class Chunk:
    """Whole batches that are to be trained on one after the other.

    `images`: uint8 [steps * batch size, height, width, channels]; `targets`: int32 [steps * batch size].
    """

    first: int
    """The step in its epoch, from 0, of the first batch."""
    steps: int
    images: UInt8Array
    targets: Targets


class Batches:
    """The training split in shuffled batches: the same for the same seed, epoch and step, whatever came before.

    Images are read from `data.images` as they are needed, so that the decoded dataset may be larger than the memory.
    """

    def __init__(self, data: TrainingData, batch_size: int, seed: int) -> None:
        """A last batch that would not be full is left out; each epoch leaves out others."""
        # A view without the ways of a memory map: indexing that one makes more of them.
        self._images: UInt8Array = np.asarray(data.images)
        self._data = data
        self._seed = seed
        self.batch_size = min(batch_size, len(data.train))
        self.steps = len(data.train) // self.batch_size
        self._most_at_once = max(1, _BYTES // (self.batch_size * self._images[0].nbytes))
        self._at_once = 1

    def order(self, epoch: int) -> Indices:
        """Positions in the whole dataset, in the order of that epoch (from 1)."""
        random = np.random.default_rng([self._seed, 3, epoch])
        train = self._data.train
        return train[random.permutation(len(train))]

    def epoch(self, number: int, after: int = 0) -> Iterator[Chunk]:
        """The epoch's batches, without the first `after`; a thread loads the next chunk while one is trained on."""
        order = self.order(number)
        if after >= self.steps:
            return
        with ThreadPoolExecutor(1, "batches") as loader:
            ahead = loader.submit(self._load, order, after)
            while True:
                chunk = ahead.result()
                following = chunk.first + chunk.steps
                if following < self.steps:
                    ahead = loader.submit(self._load, order, following)
                yield chunk
                if following >= self.steps:
                    return

    def adapt(self, seconds_per_step: float) -> None:
        """Choose how much is loaded at once. What is computed does not depend on it."""
        self._at_once = min(max(1, int(_SECONDS / max(seconds_per_step, 1e-6))), self._most_at_once)

    def _load(self, order: Indices, first: int) -> Chunk:
        steps = min(self._at_once, self.steps - first)
        positions = order[first * self.batch_size : (first + steps) * self.batch_size]
        return Chunk(first, steps, self._images[positions], self._data.targets[positions])


def in_pieces(data: TrainingData, positions: Indices, at_least: int = 1) -> Iterator[tuple[UInt8Array, Targets]]:
    """Images and targets at `positions`, in pieces that are no burden on the memory; of `at_least` images."""
    images: UInt8Array = np.asarray(data.images)
    size = max(at_least, answered_at_once(data.preprocessing))
    for start in range(0, len(positions), size):
        chosen = positions[start : start + size]
        yield images[chosen], data.targets[chosen]


def answered_at_once(preprocessing: Preprocessing) -> int:
    """How many images of that size a network may be given at once: what it computes of them takes memory too."""
    return max(1, min(_ANSWERED, _ANSWERED_BYTES // (4 * math.prod(preprocessing.shape))))
