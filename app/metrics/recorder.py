"""The door of this room: what other rooms call to record something, and to get the page."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from threading import Lock
from typing import get_args

from app.metrics.bulk import exemplify, observe_all
from app.metrics.instruments import SECONDS, Description, Instruments, Rejection, Stage
from app.metrics.ledger import Ledger
from app.metrics.page import OPENMETRICS, TEXT, Page, Work

_REJECTIONS = frozenset(get_args(Rejection))
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """All metrics of one app, in a registry of its own. Thread-safe.

    What happens to every request or image is only noted, and added up by `flush`: at each scrape of this process,
    and, for the scrapes of others, a few times a second, for which the app calls it. It must also call it at the end.
    """

    content_type = TEXT
    openmetrics_type = OPENMETRICS

    def __init__(self) -> None:
        self._instruments = Instruments()
        self._page = Page(self._instruments.registry, self._instruments.directory)
        self._flushing = Lock()
        self._requests: Ledger[tuple[str, str, int]] = Ledger(self._relieve)
        self._stages: Ledger[Stage] = Ledger(self._relieve)
        self._batches: Ledger[tuple[str, int]] = Ledger(self._relieve)
        self._engines: Ledger[tuple[str, int]] = Ledger(self._relieve)
        self._predicted: Ledger[tuple[str, int, str]] = Ledger(self._relieve)
        self._rejected: Ledger[str] = Ledger(self._relieve)
        self._in_flight: Ledger[None] = Ledger(self._relieve)
        # By bucket, of which only the latest is kept; one that comes between `copy` and `clear` below is no loss.
        self._exemplars: dict[tuple[str, str, int], tuple[float, str, float]] = {}

    def request(self, *, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count an HTTP request. `route` is the template ("/api/v1/models/{model}"); None: no route matched."""
        self._requests.note((route or "unmatched", method if method in _METHODS else "other", status), seconds)

    def exemplar(self, *, route: str | None, method: str, seconds: float, trace_id: str) -> None:
        """Name the trace of a request as an example of those that took as long; shown in OpenMetrics, by one process.

        Args:
            route, method: as given to `request`.
            seconds: how long it took.
            trace_id: 32 hexadecimal digits.
        """
        if self._instruments.directory is None:
            verb = method if method in _METHODS else "other"
            bucket = bisect_left(SECONDS, seconds)
            self._exemplars[(route or "unmatched", verb, bucket)] = (seconds, trace_id, time.time())

    def stage(self, stage: Stage, seconds: float) -> None:
        """Record the time that one request, image or micro-batch spent in a stage."""
        self._stages.note(stage, seconds)

    def batch(self, model: str, version: int, images: int, seconds: float) -> None:
        """Record the size of a micro-batch, and how long the engine took for it."""
        self._batches.note((model, version), images)
        self._engines.note((model, version), seconds)

    def predicted(self, model: str, version: int, label: str, images: int = 1) -> None:
        """Count answers by their most probable label."""
        self._predicted.note((model, version, label), images)

    def rejected(self, reason: str, images: int = 1) -> None:
        """Count what was turned away. `reason` is the `code` of the error; codes outside of `Rejection` are "other".

        The classifier counts images that it refuses itself; the API counts what never gets there
        (`payload_too_large`, `request_timeout`, `unauthorized`, `forbidden`).
        """
        self._rejected.note(reason if reason in _REJECTIONS else "other", images)

    def in_flight(self, change: int) -> None:
        """Add to (or, negative, take from) the images in flight."""
        self._in_flight.note(None, change)

    def loaded(self, model: str, version: int, runtime: str, *, present: bool) -> None:
        """Say whether this process holds a version now."""
        self._instruments.model_info.labels(model, str(version), runtime).set(1 if present else 0)

    def ready(self, model: str, ready: bool) -> None:
        """Say whether this process can answer for the model."""
        self._instruments.model_ready.labels(model).set(1 if ready else 0)

    def gone(self, model: str) -> None:
        """Say no more of whether the model is ready: it is not meant to be. Only where one process serves alone."""
        self._instruments.model_ready.remove(model)

    def swapped(self, model: str) -> None:
        """Count that a model's answers come from another version from now on."""
        self._instruments.swaps.labels(model).inc()

    def refused(self, model: str) -> None:
        """Count a version that failed its checks."""
        self._instruments.refusals.labels(model).inc()

    def golden_warning(self, model: str) -> None:
        """Count a version that was loaded although decoded pixels differ a little."""
        self._instruments.golden_warnings.labels(model).inc()

    def watch_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Have `fovea_jobs` on the page: `count` gives the number of training jobs in each state.

        It is called at each scrape, by the process that answers it. Jobs are folders that all
        processes share, so any of them knows the whole, and nothing is summed.
        """
        self._page.watch_jobs(count)

    def flush(self) -> None:
        """Add up what was noted, so that any process's page has it. A millisecond for a thousand requests."""
        with self._flushing:
            self._add_up()

    def render(self, *, openmetrics: bool = False) -> bytes:
        """The page for Prometheus; for all worker processes. Blocks for some milliseconds.

        Args:
            openmetrics: in OpenMetrics' text format (`openmetrics_type`), not Prometheus' own (`content_type`).
        """
        self.flush()
        return self._page.render(openmetrics=openmetrics)

    def work(self) -> dict[tuple[str, int], Work]:
        """What each model and version has done, in all worker processes. Blocks for some milliseconds."""
        self.flush()
        return self._page.work()

    def describe(self) -> list[Description]:
        """All metrics of our own, in the order of the page."""
        return self._instruments.describe()

    def _relieve(self) -> None:
        """Flush in the middle of a request, as nobody did in time; but never wait for who is at it already."""
        if self._flushing.acquire(blocking=False):
            try:
                self._add_up()
            finally:
                self._flushing.release()

    def _add_up(self) -> None:
        instruments = self._instruments
        # A request is counted last, when all that happened in it is. Taken first and added last, it is never on a
        # page that lacks its images.
        exemplars = self._exemplars.copy()
        self._exemplars.clear()
        requests = self._requests.take()
        for (name, version), sizes in self._batches.take().items():
            observe_all(instruments.batch_size.labels(name, str(version)), sizes)
        for (name, version), seconds in self._engines.take().items():
            instruments.engine_seconds.labels(name, str(version)).inc(sum(seconds))
        for stage, seconds in self._stages.take().items():
            observe_all(instruments.stage_seconds.labels(stage), seconds)
        for (name, version, label), images in self._predicted.take().items():
            instruments.predictions.labels(name, str(version), label).inc(sum(images))
        for reason, images in self._rejected.take().items():
            instruments.rejected.labels(reason).inc(sum(images))
        for changes in self._in_flight.take().values():
            instruments.in_flight.inc(sum(changes))
        for (route, verb, status), seconds in requests.items():
            instruments.requests.labels(route, verb, str(status)).inc(len(seconds))
            observe_all(instruments.request_seconds.labels(route, verb), seconds)
        for (route, verb, _), (took, trace_id, at) in exemplars.items():
            exemplify(instruments.request_seconds.labels(route, verb), took, {"trace_id": trace_id}, at)
