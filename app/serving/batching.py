"""An engine at work: a loaded version, its queue, and the lanes that decode and classify what waits.

A lane is a thread that takes a micro-batch of encoded images, decodes them and runs the engine on them. The batching
is work-conserving: a free lane takes what is queued, up to the maximum. It never waits for more to come, so a lone
image is answered at once, and batches grow only under load. Decoding stands in the lane, since handing each image
from thread to thread costs more than decoding a small one.

Of a small model, the small images are not given to a lane at all, but answered on the event loop, in slices of a
millisecond or two: handing them over and back would take longer than that, and in the meantime the two threads would
only wait for each other, since Python runs one at a time. Such images gather while a slice runs, so they too are
answered in micro-batches that grow under load.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType

import numpy as np
import numpy.typing as npt

from app.errors import FoveaError, ImageTooLarge, InferenceFailed, InvalidImage, InvalidRequest
from app.metrics import Metrics
from app.preprocessing import Float32Array, to_array
from app.serving.pace import Pace
from app.serving.runtimes.base import Batch
from app.serving.slices import Slices
from app.serving.tensors import Image, fit_input, size
from app.serving.ticket import Lone, Result, Ticket, too_late
from app.serving.turns import Turns, Work
from app.serving.versions import LoadedVersion

_log = logging.getLogger(__name__)

Outcome = tuple[Ticket, int, Result]

# What may be done on the event loop: images of so few bytes and pixels, of a model that takes no longer for one of
# them, and no more of them at a time than take so long.
_SMALL_BYTES = 8192
_SMALL_PIXELS = 128 * 128
_SMALL_SECONDS = 0.001
_SLICE_SECONDS = 0.002

# What is decoded by then is classified, and the rest waits for another turn: a small picture waits for one large
# picture at most, and not for all of a request.
_PATIENCE_SECONDS = 0.005


class Engine:
    """Runs one loaded version until it is retired and its last user has left; a context manager for its users.

    Belongs to one event loop; its lanes are threads.
    """

    def __init__(self, loaded: LoadedVersion, *, lanes: int, max_batch: int, max_pixels: int, metrics: Metrics) -> None:
        """Begins at once; needs a running event loop.

        Args:
            lanes: threads that decode and classify; as many as the runtime was opened with.
            max_batch: most images in one call of the runtime.
            max_pixels: most pixels that an image may have.
        """
        self.loaded = loaded
        self.failure: str | None = None
        """Why its answers cannot be trusted, once they were not finite."""
        self._max_batch = max_batch
        self._max_pixels = max_pixels
        self._metrics = metrics
        self.loop = asyncio.get_running_loop()
        self._turns = Turns(lanes)
        tuning = loaded.tuning
        self._small = tuning.lone_seconds <= _SMALL_SECONDS
        seconds = max(tuning.decode_seconds + tuning.seconds_per_image, 1e-6)
        self._slices = Slices(_SLICE_SECONDS, expected=seconds, most=max_batch)
        self._here: deque[Work] = deque()
        """Calls of one small image, to be answered on the event loop."""
        self._pace = Pace(saturated=2 * lanes, expected=seconds / lanes)
        self._users = 0
        self._closing = False
        self._closed = asyncio.Event()
        self._retired = False
        self._lock = threading.Lock()
        self._working = lanes
        for number in range(lanes):
            name = f"fovea-{loaded.model}-{loaded.version}-{number}"
            threading.Thread(target=self._lane, name=name, daemon=True).start()

    @property
    def retired(self) -> bool:
        return self._retired

    def __enter__(self) -> None:
        """Keep the engine open during the block, retired or not. It must not be retired yet on entering."""
        if self._retired:
            raise RuntimeError("the engine is retired")
        self._users += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._users -= 1
        self._close_if_idle()

    async def classify(self, ticket: Ticket) -> list[Result]:
        """Answers to all images of a call, in their order. What is not begun when it is cancelled never is.

        Raises:
            DeadlineExceeded: the ticket's deadline passed before.
            FoveaError: the ticket was failed with it.
        """
        small = ticket.count == 1 and self.takes_here(ticket.image(0) or b"")
        answered = False
        self._pace.come(ticket.count)
        try:
            if small:
                self._put_here(ticket)
            else:
                self._turns.put(ticket)
            results = await ticket.results()
            answered = True
            return results
        finally:
            self._pace.go(ticket.count, answered=answered)

    def takes_here(self, image: Image) -> bool:
        """Whether an image is one to be answered on the event loop."""
        return self._small and size(image) <= _SMALL_BYTES

    def begin_here(self, ticket: Lone) -> None:
        """Take in a call of an image that `takes_here`, and keep the engine open until `end_here`."""
        self.__enter__()
        self._pace.come(1)
        self._put_here(ticket)

    def end_here(self, *, answered: bool) -> None:
        """Note the end of a call that `begin_here` took in."""
        self._pace.go(1, answered=answered)
        self.__exit__(None, None, None)

    def wait(self, images: int = 0) -> float | None:
        """Seconds until what waits, and so many images more, will have been answered; None if that cannot be told."""
        return self._pace.wait(images)

    def retire(self, *, at_once: bool = False) -> None:
        """Close when nobody uses it any more, perhaps now; `at_once`: after the batches that run."""
        self._retired = True
        if at_once:
            self._close()
        self._close_if_idle()

    async def closed(self) -> None:
        """Wait until a retired engine is closed."""
        await self._closed.wait()

    def _close_if_idle(self) -> None:
        if self._retired and self._users == 0:
            self._close()

    def _close(self) -> None:
        if not self._closing:
            self._closing = True
            self._turns.close()

    def _put_here(self, ticket: Ticket) -> None:
        self._here.append((ticket, 0))
        if len(self._here) == 1:
            # Not at once: what else has come in this turn of the loop shall be in the same micro-batch.
            self.loop.call_soon(self._run_here)

    def _run_here(self) -> None:
        """Answer small images on the event loop: a slice, then others have their turn."""
        waiting = self._here
        begin = time.perf_counter()
        work = [waiting.popleft() for _ in range(min(len(waiting), self._slices.images))]
        rest: list[Work] = []
        try:
            outcomes, rest = self._run(work, here=True)
            _settle(outcomes)
            self._slices.took(len(outcomes), time.perf_counter() - begin)
            now = time.monotonic()
            for ticket, _ in work:
                if ticket.expired(now):
                    ticket.fail(too_late())  # unless it was answered just now
        finally:
            waiting.extendleft(reversed(rest))
            if waiting:
                self.loop.call_soon(self._run_here)

    def _lane(self) -> None:
        while work := self._turns.take(self._max_batch):
            outcomes, rest = self._run(work)
            self._turns.give_back(rest)
            if outcomes:
                self._call(_settle, outcomes)
        with self._lock:
            self._working -= 1
            last = self._working == 0
        if last:
            # After the last batch, whose callers may all have gone.
            try:
                self.loaded.runtime.close()
            except Exception:
                _log.exception("closing the engine of %s failed", self._title)
            self._call(self._closed.set)

    def _run(self, work: list[Work], *, here: bool = False) -> tuple[list[Outcome], list[Work]]:
        """Decode a micro-batch and classify it, on a lane, or, `here`, on the event loop.

        Returns what came of it, and what was not begun since decoding took long.
        """
        try:
            return self._work(work, here=here)
        # Whatever it is (no memory, say): nobody shall wait for ever, and the lane shall go on.
        except Exception:
            _log.exception("answering a micro-batch of %s failed", self._title)
            error = InferenceFailed(f"Answering with {self._title} failed in a way that is not foreseen.")
            return [(ticket, index, error) for ticket, index in work], []

    def _work(self, work: list[Work], *, here: bool) -> tuple[list[Outcome], list[Work]]:
        arrays = np.empty((len(work), *self.loaded.manifest.preprocessing.shape), np.uint8)
        max_pixels = min(_SMALL_PIXELS, self._max_pixels) if here else self._max_pixels
        patience = _SLICE_SECONDS if here else _PATIENCE_SECONDS
        ready: list[Work] = []
        waits: list[float] = []
        scaled: list[tuple[Work, float, Batch]] = []
        """Tensors of a graph that takes float32, which are not to be scaled again."""
        outcomes: list[Outcome] = []
        begun = now = time.perf_counter()
        taken = 0
        for ticket, index in work:
            if taken and now - begun > patience:
                break
            taken += 1
            result = self._decode(ticket, index, now, max_pixels)
            end = time.perf_counter()
            took, now = end - now, end
            if here and isinstance(result, ImageTooLarge):
                if isinstance(ticket, Lone):
                    ticket.fail_in_time()
                self._turns.put(ticket)  # it is larger than it looked
            elif isinstance(result, FoveaError):
                self._metrics.rejected(result.code)
                outcomes.append((ticket, index, result))
            elif result is not None and result.dtype != np.uint8:
                scaled.append(((ticket, index), ticket.since + took, result))
            elif result is not None:
                arrays[len(ready)] = result
                ready.append((ticket, index))
                waits.append(ticket.since + took)
        if scaled:
            these, since, tensors = zip(*scaled, strict=True)
            outcomes += self._infer(np.stack(tensors), [*these], [*since])
        return outcomes + self._infer(arrays, ready, waits), work[taken:]

    def _decode(self, ticket: Ticket, index: int, now: float, max_pixels: int) -> Batch | FoveaError | None:
        """The array of one image, or its error; None if nobody waits for it."""
        data = ticket.image(index)
        if data is None or ticket.expired(time.monotonic()):
            return None
        try:
            manifest = self.loaded.manifest
            array: Batch
            if isinstance(data, bytes):
                array = to_array(data, manifest.preprocessing, max_pixels=max_pixels)
            else:
                array = fit_input(data, manifest)
        except FoveaError as error:
            return error
        except Exception:
            _log.exception("decoding an image failed in a way that is not foreseen")
            return InvalidImage("The image cannot be decoded.")
        end = time.perf_counter()
        self._metrics.stage("decode", end - now)
        if ticket.stages is not None:
            ticket.stages += [("queue", ticket.since, now), ("decode", now, end)]
        return array

    def _infer(self, arrays: Batch, ready: list[Work], waits: list[float]) -> list[Outcome]:
        """Run the engine on the first of `arrays`; what nobody waits for any more is left out."""
        begin = time.perf_counter()
        now = time.monotonic()
        live = [n for n, (ticket, _) in enumerate(ready) if not (ticket.over or ticket.expired(now))]
        if len(live) < len(ready):
            arrays, ready, waits = arrays[live], [ready[n] for n in live], [waits[n] for n in live]
        for waited in waits:
            self._metrics.stage("queue", begin - waited)
        results: Sequence[Result] = []
        try:
            if ready:
                results = self._predict(arrays[: len(ready)])
        except Exception as error:
            if not isinstance(error, InferenceFailed):
                _log.exception("the engine of %s failed", self._title)
                error = InferenceFailed(f"The engine of {self._title} failed: {type(error).__name__}.")
            self._metrics.rejected(error.code, len(ready))
            results = [error] * len(ready)
        for ticket, _ in ready:
            if ticket.stages is not None:
                ticket.stages.append(("inference", begin, time.perf_counter()))
        return [(ticket, index, result) for (ticket, index), result in zip(ready, results, strict=True)]

    def _predict(self, batch: Batch) -> Sequence[Result]:
        begin = time.perf_counter()
        # A plain read of another thread's number: if it is just changing, either answer will do.
        rows = self.loaded.runtime.predict(batch, alone=self._pace.inside == len(batch) == 1)
        seconds = time.perf_counter() - begin
        self._metrics.stage("inference", seconds)
        self._metrics.batch(self.loaded.model, self.loaded.version, len(batch), seconds)
        if rows.shape != (len(batch), len(self.loaded.manifest.labels)):
            raise InferenceFailed(f"The engine of {self._title} answered {len(batch)} images with {list(rows.shape)}.")
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(rows).all(axis=1))
        self._count(rows[finite])
        return list(rows) if finite.all() else self._not_finite(rows, finite, batch)

    def _not_finite(self, rows: Float32Array, finite: npt.NDArray[np.bool_], batch: Batch) -> list[Result]:
        """Answer only the rows that are finite, and doubt the version from now on if what it was asked was in order."""
        error: FoveaError
        if batch.dtype == np.uint8:
            error = InferenceFailed(f"{self._title} answered with numbers that are not finite (NaN or infinite).")
            if self.failure is None:
                _log.error("%s", error)
            self.failure = str(error)
        else:
            # A client's own numbers: with those of no image it must not end the answers for everybody.
            error = InvalidRequest(
                f"{self._title} answers the tensor of an image with numbers that are not finite: it is far from what "
                "preprocessing gives."
            )
        self._metrics.rejected(error.code, int(len(rows) - finite.sum()))
        return [row if good else error for row, good in zip(rows, finite, strict=True)]

    def _count(self, rows: Float32Array) -> None:
        loaded = self.loaded
        labels = loaded.manifest.labels
        for index in rows.argmax(axis=1).tolist():
            self._metrics.predicted(loaded.model, loaded.version, labels[index])

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        """Have the event loop call a function."""
        try:
            self.loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            _log.debug("the event loop has ended; nobody waits for the answers of %s", self._title)

    @property
    def _title(self) -> str:
        return f"Version {self.loaded.version} of {self.loaded.model}"


def _settle(outcomes: list[Outcome]) -> None:
    for ticket, index, result in outcomes:
        ticket.settle(index, result)
