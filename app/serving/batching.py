"""An engine at work: a loaded version, its queue, and one worker that makes micro-batches of what waits.

The batching is work-conserving: whenever the engine is free it takes what is queued, up to the maximum. It
never waits for more to come, so a lone image is answered at once, and batches grow only under load.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.errors import InferenceFailed
from app.metrics import Metrics
from app.preprocessing import Float32Array, UInt8Array
from app.serving.fair_queue import FairQueue
from app.serving.ticket import Result, Ticket
from app.serving.versions import LoadedVersion

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Decoded:
    ticket: Ticket
    index: int
    array: UInt8Array
    waited: float
    since: float


class Engine:
    """Runs one loaded version until it is retired and its last user has left. Belongs to one event loop."""

    def __init__(self, loaded: LoadedVersion, *, max_batch: int, metrics: Metrics) -> None:
        """Begins at once; needs a running event loop."""
        self.loaded = loaded
        self.failure: str | None = None
        """Why its answers cannot be trusted, once they were not finite."""
        self._max_batch = max_batch
        self._metrics = metrics
        self._queue: FairQueue[_Decoded] = FairQueue()
        # A thread of its own: engines do not wait for each other, and closing comes after the last batch.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"fovea-{loaded.model}-{loaded.version}")
        self._worker = asyncio.create_task(self._work())
        self._users = 0
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._retired = False

    @property
    def retired(self) -> bool:
        return self._retired

    @contextmanager
    def use(self) -> Iterator[None]:
        """Keep the engine open during the block, retired or not. It must not be retired yet on entering."""
        if self._retired:
            raise RuntimeError("the engine is retired")
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_idle()

    def add(self, ticket: Ticket, index: int, array: UInt8Array, waited: float) -> None:
        """Queue an image, uint8 [height, width, channels]; its ticket is settled with the answer.

        `waited` is the time in seconds that it spent in queues before.
        """
        self._queue.put(ticket, _Decoded(ticket, index, array, waited, time.perf_counter()))

    def drop(self, ticket: Ticket) -> None:
        """Forget what a ticket has in the queue."""
        self._queue.discard(ticket)

    def retire(self, *, at_once: bool = False) -> None:
        """Close when nobody uses it any more, perhaps now; `at_once`: after the batch that runs."""
        self._retired = True
        if at_once and self._closing is None:
            self._closing = asyncio.create_task(self._close())
        self._close_if_idle()

    async def closed(self) -> None:
        """Wait until a retired engine is closed."""
        await self._closed.wait()

    def _close_if_idle(self) -> None:
        if self._retired and self._users == 0 and self._closing is None:
            self._closing = asyncio.create_task(self._close())

    async def _close(self) -> None:
        self._worker.cancel()
        await asyncio.gather(self._worker, return_exceptions=True)
        # On its own thread, hence after a batch whose callers have all gone.
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self.loaded.runtime.close)
        except Exception:
            _log.exception("closing the engine of %s failed", self._title)
        self._thread.shutdown(wait=False)
        self._closed.set()

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            batch = await self._queue.take(self._max_batch)
            try:
                results: Sequence[Result] = await loop.run_in_executor(self._thread, self._run, batch)
            except Exception as error:
                if not isinstance(error, InferenceFailed):
                    _log.exception("the engine of %s failed", self._title)
                    error = InferenceFailed(f"The engine of {self._title} failed: {type(error).__name__}.")
                self._metrics.rejected(error.code, len(batch))
                results = [error] * len(batch)
            for item, result in zip(batch, results, strict=True):
                item.ticket.settle(item.index, result)

    def _run(self, batch: list[_Decoded]) -> Sequence[Result]:
        """Answer a batch, on the engine's thread."""
        begin = time.perf_counter()
        for item in batch:
            self._metrics.stage("queue", item.waited + begin - item.since)
        rows = self.loaded.runtime.predict(np.stack([item.array for item in batch]))
        self._metrics.stage("inference", time.perf_counter() - begin)
        self._metrics.batch(self.loaded.model, len(batch))
        if rows.shape != (len(batch), len(self.loaded.manifest.labels)):
            raise InferenceFailed(f"The engine of {self._title} answered {len(batch)} images with {list(rows.shape)}.")
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
        self._count(rows[finite])
        return list(rows) if finite.all() else self._not_finite(rows, finite)

    def _not_finite(self, rows: Float32Array, finite: npt.NDArray[np.bool_]) -> list[Result]:
        """Answer only the rows that are finite, and doubt the version from now on."""
        error = InferenceFailed(f"{self._title} answered with numbers that are not finite (NaN or infinite).")
        if self.failure is None:
            _log.error("%s", error)
        self.failure = str(error)
        self._metrics.rejected(error.code, int(len(rows) - finite.sum()))
        return [row if good else error for row, good in zip(rows, finite, strict=True)]

    def _count(self, rows: Float32Array) -> None:
        loaded = self.loaded
        for index, images in Counter(rows.argmax(axis=1).tolist()).items():
            self._metrics.predicted(loaded.model, loaded.version, loaded.manifest.labels[index], images)

    @property
    def _title(self) -> str:
        return f"Version {self.loaded.version} of {self.loaded.model}"
