"""The fake engine under a test's control."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np

from app.preprocessing import Float32Array
from app.serving.runtimes.base import Batch
from app.serving.runtimes.fake import FakeRuntime
from app.store.manifest import Manifest


class Engines:
    """A RuntimeLoader: counts what is loaded and open, records batches, can be held up and made to fail.

    The five calls with which the golden examples are replayed and one is timed are neither recorded nor disturbed.
    """

    def __init__(self) -> None:
        self.loads: list[int] = []
        self.open: list[int] = []
        self.batches: list[int] = []
        self.go = threading.Event()
        """Cleared, every prediction waits for it."""
        self.begun = threading.Event()
        """Set when a prediction has begun."""
        self.load_go = threading.Event()
        """Cleared, every load waits for it."""
        self.error: Exception | None = None
        self.nan_for: int | None = None
        """Shade of gray of images that are answered with NaN."""
        self.lose_rows = False
        """Answer with one row less than there are images."""
        self.go.set()
        self.load_go.set()

    def __call__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> _Runtime:
        version = int(folder.name)
        self.loads.append(version)
        assert self.load_go.wait(30)
        self.open.append(version)
        return _Runtime(self, folder, manifest, lanes, threads)


class _Runtime(FakeRuntime):
    def __init__(self, engines: Engines, folder: Path, manifest: Manifest, lanes: int, threads: int) -> None:
        super().__init__(folder, manifest, lanes=lanes, threads=threads)
        self._engines = engines
        self._version = int(folder.name)
        self._replays = 5

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        if self._replays:
            self._replays -= 1
            # Slow enough to be given to lanes; what is answered on the event loop could not be held up there.
            time.sleep(0.002)
            return super().predict(batch)
        engines = self._engines
        engines.batches.append(len(batch))
        engines.begun.set()
        assert engines.go.wait(30)
        if engines.error is not None:
            raise engines.error
        answer = super().predict(batch)
        if engines.nan_for is not None:
            answer[(batch == engines.nan_for).all(axis=(1, 2, 3))] = np.nan
        return answer[1:] if engines.lose_rows else answer

    def close(self) -> None:
        super().close()
        self._engines.open.remove(self._version)
