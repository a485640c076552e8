"""Decoding images off the event loop, in turns."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from app.errors import FoveaError, InvalidImage
from app.metrics import Metrics
from app.preprocessing import UInt8Array, to_array
from app.serving.batching import Engine
from app.serving.fair_queue import FairQueue
from app.serving.ticket import Ticket

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Undecoded:
    ticket: Ticket
    index: int
    engine: Engine
    since: float


class Decoder:
    """Threads that turn encoded images into arrays and hand them to their engine. Belongs to one event loop."""

    def __init__(self, *, threads: int, max_pixels: int, metrics: Metrics) -> None:
        """Begins at once; needs a running event loop."""
        self._max_pixels = max_pixels
        self._metrics = metrics
        self._queue: FairQueue[_Undecoded] = FairQueue()
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="fovea-decode")
        self._workers = [asyncio.create_task(self._work()) for _ in range(threads)]

    def add(self, ticket: Ticket, engine: Engine) -> None:
        """Queue all images of a ticket for an engine. One that is no image is settled with its error."""
        now = time.perf_counter()
        for index in range(len(ticket.images)):
            self._queue.put(ticket, _Undecoded(ticket, index, engine, now))

    def drop(self, ticket: Ticket) -> None:
        """Forget the images of a ticket that were not begun."""
        self._queue.discard(ticket)

    async def stop(self) -> None:
        """End the threads after the images that they are at."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        self._threads.shutdown(wait=False)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            (item,) = await self._queue.take()
            try:
                array, waited = await loop.run_in_executor(self._threads, self._decode, item)
            except FoveaError as error:
                self._reject(item, error)
            except Exception:
                _log.exception("decoding an image failed in a way that is not foreseen")
                self._reject(item, InvalidImage("The image cannot be decoded."))
            else:
                if not item.ticket.over:
                    item.engine.add(item.ticket, item.index, array, waited)

    def _reject(self, item: _Undecoded, error: FoveaError) -> None:
        self._metrics.rejected(error.code)
        item.ticket.settle(item.index, error)

    def _decode(self, item: _Undecoded) -> tuple[UInt8Array, float]:
        """The array, and how long the image waited for its turn."""
        begin = time.perf_counter()
        preprocessing = item.engine.loaded.manifest.preprocessing
        array = to_array(item.ticket.images[item.index], preprocessing, max_pixels=self._max_pixels)
        self._metrics.stage("decode", time.perf_counter() - begin)
        return array, begin - item.since
