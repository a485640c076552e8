"""What the service measures about itself, in Prometheus' terms. `docs/metrics.md` has the same list.

Label sets are closed: routes are templates, models and labels come from the store, and reasons
and stages from the tuples below; nothing that a client sends becomes a label.

With several worker processes, set `PROMETHEUS_MULTIPROC_DIR` to an empty folder that they share
before any of them starts. Each then answers for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from prometheus_client import Metric
    from prometheus_client.metrics_core import GaugeMetricFamily

Stage = Literal["read", "decode", "queue", "inference", "render"]

# Codes of the errors (`app.errors`) with which an image or a body is turned away.
Rejection = Literal[
    "overloaded",
    "not_ready",
    "invalid_image",
    "unsupported_image_format",
    "image_too_large",
    "payload_too_large",
    "request_timeout",
    "inference_failed",
    "unauthorized",
    "forbidden",
    "other",
]
_REJECTIONS = frozenset(get_args(Rejection))
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

# 0.1 ms to 10 s: a tiny model answers in well under a millisecond, a large photo takes a good part of a second.
_SECONDS = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Description:
    """What `docs/metrics.md` says of a metric."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Metrics:
    """All metrics of one app, in a registry of its own. Thread-safe."""

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self) -> None:
        # prometheus_client decides at its import, by the environment, whether values live in this process or in
        # shared files; a worker's environment is complete only by now.
        from prometheus_client import (
            CollectorRegistry,
            Counter,
            Gauge,
            Histogram,
            ProcessCollector,
            disable_created_metrics,
            multiprocess,
            values,
        )

        # Seconds since the epoch at which each series began: they double the page, and Prometheus ignores them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory and values.ValueClass is values.MutexValue:
            raise RuntimeError("PROMETHEUS_MULTIPROC_DIR was set after prometheus_client was imported: set it earlier.")
        self._directory = Path(directory) if directory else None
        if self._directory is not None:
            self._directory.mkdir(parents=True, exist_ok=True)
        own = CollectorRegistry()

        self._requests = Counter(
            "fovea_requests_total", "HTTP requests answered.", ["route", "method", "status"], registry=own
        )
        self._request_seconds = Histogram(
            "fovea_request_seconds",
            "Time from a request's first byte to its answer's last, in seconds.",
            ["route", "method"],
            buckets=_SECONDS,
            registry=own,
        )
        self._stage_seconds = Histogram(
            "fovea_stage_seconds",
            "Time spent in each stage, in seconds: read and render a request, decode and queue an image, inference "
            "a micro-batch.",
            ["stage"],
            buckets=_SECONDS,
            registry=own,
        )
        self._batch_size = Histogram(
            "fovea_batch_size", "Images in a micro-batch.", ["model"], buckets=_BATCH, registry=own
        )
        self._predictions = Counter(
            "fovea_predictions_total",
            "Images classified, by their most probable label.",
            ["model", "version", "label"],
            registry=own,
        )
        self._rejected = Counter(
            "fovea_rejected_total",
            "Images, or requests of which no image was read, turned away, by the code of the error.",
            ["reason"],
            registry=own,
        )
        self._in_flight = Gauge(
            "fovea_images_in_flight",
            "Images admitted and not yet answered.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self._model_info = Gauge(
            "fovea_model_info",
            "1 for each version that is loaded, with the engine that runs it.",
            ["model", "version", "runtime"],
            registry=own,
            multiprocess_mode="livemax",
        )
        self._model_ready = Gauge(
            "fovea_model_ready",
            "1 if every process can answer for the model, else 0.",
            ["model"],
            registry=own,
            multiprocess_mode="livemin",
        )
        self._swaps = Counter(
            "fovea_model_swaps_total",
            "Times that a process began to answer with another version of the model.",
            ["model"],
            registry=own,
        )
        self._refusals = Counter(
            "fovea_version_refusals_total", "Versions that failed their checks when loaded.", ["model"], registry=own
        )
        self._golden_warnings = Counter(
            "fovea_golden_warnings_total",
            "Versions loaded although this decoder's pixels differ (by at most 2 levels) from the trainer's.",
            ["model"],
            registry=own,
        )

        self._count_jobs: Callable[[], Mapping[str, int]] | None = None
        self._own = own
        self._pages = own
        if self._directory is not None:
            self._pages = CollectorRegistry()
            multiprocess.MultiProcessCollector(self._pages, path=str(self._directory))  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=own)

    def request(self, *, route: str | None, method: str, status: int, seconds: float) -> None:
        """Count an HTTP request. `route` is the template ("/api/v1/models/{model}"); None: no route matched."""
        template = route or "unmatched"
        verb = method if method in _METHODS else "other"
        self._requests.labels(template, verb, str(status)).inc()
        self._request_seconds.labels(template, verb).observe(seconds)

    def stage(self, stage: Stage, seconds: float) -> None:
        """Record the time that one request, image or micro-batch spent in a stage."""
        self._stage_seconds.labels(stage).observe(seconds)

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """Record the time that the block takes as that of a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.stage(stage, time.perf_counter() - begin)

    def batch(self, model: str, images: int) -> None:
        """Record the size of a micro-batch."""
        self._batch_size.labels(model).observe(images)

    def predicted(self, model: str, version: int, label: str, images: int = 1) -> None:
        """Count answers by their most probable label."""
        self._predictions.labels(model, str(version), label).inc(images)

    def rejected(self, reason: str, images: int = 1) -> None:
        """Count what was turned away. `reason` is the `code` of the error; codes outside of `Rejection` are "other".

        The classifier counts images that it refuses itself; the API counts what never gets there
        (`payload_too_large`, `request_timeout`, `unauthorized`, `forbidden`).
        """
        self._rejected.labels(reason if reason in _REJECTIONS else "other").inc(images)

    def in_flight(self, change: int) -> None:
        """Add to (or, negative, take from) the images in flight."""
        self._in_flight.inc(change)

    def loaded(self, model: str, version: int, runtime: str, *, present: bool) -> None:
        """Say whether this process holds a version now."""
        self._model_info.labels(model, str(version), runtime).set(1 if present else 0)

    def ready(self, model: str, ready: bool) -> None:
        """Say whether this process can answer for the model."""
        self._model_ready.labels(model).set(1 if ready else 0)

    def swapped(self, model: str) -> None:
        """Count that a model's answers come from another version from now on."""
        self._swaps.labels(model).inc()

    def refused(self, model: str) -> None:
        """Count a version that failed its checks."""
        self._refusals.labels(model).inc()

    def golden_warning(self, model: str) -> None:
        """Count a version that was loaded although decoded pixels differ a little."""
        self._golden_warnings.labels(model).inc()

    def watch_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Have `fovea_jobs` on the page: `count` gives the number of training jobs in each state.

        It is called at each scrape, by the process that answers it. Jobs are folders that all
        processes share, so any of them knows the whole, and nothing is summed.
        """
        self._count_jobs = count

    def render(self) -> bytes:
        """The page for Prometheus, in the text format; for all worker processes. Blocks for some milliseconds."""
        from prometheus_client import generate_latest

        if self._directory is not None:
            _forget_dead(self._directory)
        return generate_latest(_Page(self._collect))

    def describe(self) -> list[Description]:
        """All metrics of our own, in the order of the page."""
        from prometheus_client.metrics import MetricWrapperBase

        own = [c for c in self._own._collector_to_names if isinstance(c, MetricWrapperBase)]
        described = [Description(c._original_name, c._type or "", c._labelnames, c._documentation) for c in own]
        jobs = _jobs({})
        return [*described, Description(jobs.name, jobs.type, jobs._labelnames, jobs.documentation)]

    def _collect(self) -> Iterator[Metric]:
        for metric in self._pages.collect():
            if metric.name == "fovea_model_info":
                # Shared files cannot forget a series; a version that is gone is a zero in them.
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric
        if self._count_jobs is not None:
            yield _jobs(self._count_jobs())


class _Page:
    """A collector made of a function."""

    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self.collect = collect


def _jobs(counts: Mapping[str, int]) -> GaugeMetricFamily:
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily("fovea_jobs", "Training jobs by state.", labels=["state"])
    for state, number in counts.items():
        family.add_metric([state], number)
    return family


def _forget_dead(directory: Path) -> None:
    """Drop the gauges of workers that are gone; what they counted stays."""
    from prometheus_client import multiprocess

    for pid in {path.stem.rsplit("_", 1)[-1] for path in directory.glob("gauge_live*_*.db")}:
        if pid.isdigit() and not _alive(int(pid)):
            multiprocess.mark_process_dead(int(pid), path=str(directory))  # type: ignore[no-untyped-call]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
