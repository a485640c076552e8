"""The page that Prometheus reads: the metrics of this process, or of all worker processes, and the jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Metric
    from prometheus_client.metrics_core import GaugeMetricFamily

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_WORK = frozenset({"fovea_predictions_total", "fovea_batch_size_count", "fovea_engine_seconds_total"})


@dataclass
class Work:
    """What a version has done."""

    images: int = 0
    """Answered."""
    batches: int = 0
    """Micro-batches that the engine answered."""
    seconds: float = 0.0
    """That it took for them."""


class Page:
    """Renders a registry, or the files that worker processes share."""

    def __init__(self, own: CollectorRegistry, directory: Path | None) -> None:
        from prometheus_client import CollectorRegistry, ProcessCollector, multiprocess

        self._directory = directory
        self._pages = own
        self._count_jobs: Callable[[], Mapping[str, int]] | None = None
        if directory is not None:
            self._pages = CollectorRegistry()
            multiprocess.MultiProcessCollector(self._pages, path=str(directory))  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=own)

    def watch_jobs(self, count: Callable[[], Mapping[str, int]]) -> None:
        """Have `fovea_jobs` on the page, counted by `count` at each rendering."""
        self._count_jobs = count

    def render(self, *, openmetrics: bool) -> bytes:
        """The page, in one format or the other; the series have the same names in both."""
        from prometheus_client import generate_latest
        from prometheus_client.openmetrics import exposition

        if self._directory is not None:
            _forget_dead(self._directory)
        if openmetrics:
            page: bytes = exposition.generate_latest(self)  # type: ignore[no-untyped-call]
            return page
        return generate_latest(self)

    def work(self) -> dict[tuple[str, int], Work]:
        """What each model and version has done."""
        done: dict[tuple[str, int], Work] = {}
        for metric in self._pages.collect():
            for sample in metric.samples:
                if sample.name not in _WORK:
                    continue
                work = done.setdefault((sample.labels["model"], int(sample.labels["version"])), Work())
                if sample.name == "fovea_predictions_total":
                    work.images += int(sample.value)
                elif sample.name == "fovea_batch_size_count":
                    work.batches += int(sample.value)
                else:
                    work.seconds += sample.value
        return done

    def collect(self) -> Iterator[Metric]:
        """All metrics, as a collector of prometheus_client gives them."""
        for metric in self._pages.collect():
            if metric.name == "fovea_model_info":
                # Shared files cannot forget a series; a version that is gone is a zero in them.
                metric.samples = [sample for sample in metric.samples if sample.value]
            yield metric
        if self._count_jobs is not None:
            yield jobs(self._count_jobs())


def jobs(counts: Mapping[str, int]) -> GaugeMetricFamily:
    """`fovea_jobs`, of the number of jobs in each state."""
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
