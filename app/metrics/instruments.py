"""Every metric of the service: its name, meaning, labels and buckets."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from app.metrics.page import jobs

Stage = Literal["admission", "read", "decode", "queue", "inference", "render"]

# Codes of the errors (`app.errors`) with which an image or a body is turned away, and clients that did not wait.
Rejection = Literal[
    "overloaded",
    "deadline_exceeded",
    "client_gone",
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

# A tiny model's stages take tenths of a millisecond, a large photo a good part of a second. Six steps a decade: a 99th
# percentile read from them is off by 9 % in the middle case and 39 % at most (log-normal times); with the three
# steps 1, 2, 5 it would be 30 % and 100 %.
_STEPS = (1, 1.5, 2, 3, 5, 7)
SECONDS = (0.00005, *(round(step * scale, 6) for scale in (1e-4, 1e-3, 1e-2, 0.1, 1) for step in _STEPS), 10.0)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(frozen=True)
class Description:
    """What `docs/metrics.md` says of a metric."""

    name: str
    type: str
    labels: tuple[str, ...]
    help: str


class Instruments:
    """The metrics as prometheus_client's objects, in a registry of their own."""

    def __init__(self) -> None:
        # prometheus_client decides at its import, by the environment, whether values live in this process or in
        # shared files; a worker's environment is complete only by now.
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values

        # Seconds since the epoch at which each series began: they double the page, and Prometheus ignores them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        directory = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
        if directory and values.ValueClass is values.MutexValue:
            raise RuntimeError("PROMETHEUS_MULTIPROC_DIR was set after prometheus_client was imported: set it earlier.")
        self.directory = Path(directory) if directory else None
        if self.directory is not None:
            self.directory.mkdir(parents=True, exist_ok=True)
        own = self.registry = CollectorRegistry()

        self.requests = Counter(
            "fovea_requests_total", "HTTP requests answered.", ["route", "method", "status"], registry=own
        )
        self.request_seconds = Histogram(
            "fovea_request_seconds",
            "Time from a request's first byte to its answer's last, in seconds.",
            ["route", "method"],
            buckets=SECONDS,
            registry=own,
        )
        self.stage_seconds = Histogram(
            "fovea_stage_seconds",
            "Time spent in each stage, in seconds: admission, read and render a request, decode and queue an image, "
            "inference a micro-batch.",
            ["stage"],
            buckets=SECONDS,
            registry=own,
        )
        self.batch_size = Histogram(
            "fovea_batch_size", "Images in a micro-batch.", ["model", "version"], buckets=BATCH, registry=own
        )
        self.engine_seconds = Counter(
            "fovea_engine_seconds_total",
            "Time that the engine took for the micro-batches, in seconds.",
            ["model", "version"],
            registry=own,
        )
        self.predictions = Counter(
            "fovea_predictions_total",
            "Images classified, by their most probable label.",
            ["model", "version", "label"],
            registry=own,
        )
        self.rejected = Counter(
            "fovea_rejected_total",
            "Images, or requests of which no image was read, turned away, by the code of the error.",
            ["reason"],
            registry=own,
        )
        self.in_flight = Gauge(
            "fovea_images_in_flight",
            "Images admitted and not yet answered.",
            registry=own,
            multiprocess_mode="livesum",
        )
        self.model_info = Gauge(
            "fovea_model_info",
            "1 for each version that is loaded, with the engine that runs it.",
            ["model", "version", "runtime"],
            registry=own,
            multiprocess_mode="livemax",
        )
        self.model_ready = Gauge(
            "fovea_model_ready",
            "1 if every process can answer for the model, else 0.",
            ["model"],
            registry=own,
            multiprocess_mode="livemin",
        )
        self.swaps = Counter(
            "fovea_model_swaps_total",
            "Times that a process began to answer with another version of the model.",
            ["model"],
            registry=own,
        )
        self.refusals = Counter(
            "fovea_version_refusals_total", "Versions that failed their checks when loaded.", ["model"], registry=own
        )
        self.golden_warnings = Counter(
            "fovea_golden_warnings_total",
            "Versions loaded although this decoder's pixels differ (by at most 2 levels) from the trainer's.",
            ["model"],
            registry=own,
        )

    def describe(self) -> list[Description]:
        """All of them, and the jobs that the page adds, in the order of the page."""
        from prometheus_client.metrics import MetricWrapperBase

        own = [metric for metric in vars(self).values() if isinstance(metric, MetricWrapperBase)]
        described = [Description(c._original_name, c._type or "", c._labelnames, c._documentation) for c in own]
        family = jobs({})
        return [*described, Description(family.name, family.type, family._labelnames, family.documentation)]
