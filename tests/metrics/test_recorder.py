"""What the service measures about itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from app.metrics import Metrics, Rejection, Stage

DOCUMENT = Path(__file__).parents[2] / "docs" / "metrics.md"


def samples(page: bytes) -> dict[str, float]:
    """Every sample of a page, by its series; read by Prometheus' own parser."""
    families = text_string_to_metric_families(page.decode())
    return {series(sample): sample.value for family in families for sample in family.samples}


def openmetrics_samples(page: bytes) -> list[Sample]:
    """Every sample of a page in OpenMetrics' format; read by a strict parser."""
    families = openmetrics_families(page.decode())  # type: ignore[no-untyped-call]
    return [sample for family in families for sample in family.samples]


def series(sample: Sample) -> str:
    return sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items()))


def test_the_documentation_lists_every_metric_as_it_is() -> None:
    """Name, type, labels and meaning of each, in the order of the page."""
    rows = re.findall(r"^\| `(fovea_\w+)` \| (\w+) \| (.*?) \| (.*) \|$", DOCUMENT.read_text(), re.MULTILINE)
    documented = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in rows]
    assert documented == [(d.name, d.type, d.labels, d.help) for d in Metrics().describe()]


@pytest.mark.parametrize("words", [get_args(Stage), get_args(Rejection)], ids=["stages", "reasons"])
def test_the_documentation_lists_every_stage_and_reason(words: tuple[str, ...]) -> None:
    """The values of closed label sets are part of what dashboards rely on."""
    text = DOCUMENT.read_text()
    assert [word for word in words if f"`{word}`" not in text] == []


def test_what_was_recorded_is_on_the_page() -> None:
    """In the format and with the content type of Prometheus, without series that only say when others began."""
    metrics = Metrics()
    metrics.request(route="/api/v1/predict", method="POST", status=200, seconds=0.004)
    metrics.stage("decode", 0.0002)
    metrics.stage("render", 0.0001)
    metrics.batch("shapes", 2, 3, 0.25)
    metrics.predicted("shapes", 2, "vertical", 3)
    metrics.rejected("overloaded", 5)
    metrics.in_flight(4)
    metrics.in_flight(-1)
    metrics.loaded("shapes", 1, "fake", present=True)
    metrics.loaded("shapes", 2, "fake", present=True)
    metrics.loaded("shapes", 1, "fake", present=False)
    metrics.ready("shapes", True)
    metrics.swapped("shapes")
    metrics.refused("shapes")
    metrics.golden_warning("shapes")
    metrics.watch_jobs(lambda: {"queued": 2, "running": 1})
    page = samples(metrics.render())
    expected = {
        "fovea_requests_total method=POST route=/api/v1/predict status=200": 1,
        "fovea_request_seconds_bucket le=0.003 method=POST route=/api/v1/predict": 0,
        "fovea_request_seconds_bucket le=0.005 method=POST route=/api/v1/predict": 1,
        "fovea_stage_seconds_sum stage=decode": 0.0002,
        "fovea_stage_seconds_count stage=render": 1,
        "fovea_batch_size_bucket le=2.0 model=shapes version=2": 0,
        "fovea_batch_size_bucket le=4.0 model=shapes version=2": 1,
        "fovea_engine_seconds_total model=shapes version=2": 0.25,
        "fovea_predictions_total label=vertical model=shapes version=2": 3,
        "fovea_rejected_total reason=overloaded": 5,
        "fovea_images_in_flight": 3,
        "fovea_model_info model=shapes runtime=fake version=2": 1,
        "fovea_model_ready model=shapes": 1,
        "fovea_model_swaps_total model=shapes": 1,
        "fovea_version_refusals_total model=shapes": 1,
        "fovea_golden_warnings_total model=shapes": 1,
        "fovea_jobs state=queued": 2,
        "fovea_jobs state=running": 1,
    }
    assert {series: page.get(series) for series in expected} == expected
    assert "fovea_model_info model=shapes runtime=fake version=1" not in page
    assert not any("_created" in series for series in page)
    assert page["process_resident_memory_bytes"] > 0
    assert metrics.content_type.startswith("text/plain; version=0.0.4")


def test_every_stage_is_resolved_from_a_tenth_of_a_millisecond_to_ten_seconds() -> None:
    """No bucket is more than twice as wide as its beginning, so that a percentile read from them means something."""
    metrics = Metrics()
    for stage in get_args(Stage):
        metrics.stage(stage, 0.001)
    page = samples(metrics.render())
    for stage in get_args(Stage):
        series = [name for name in page if name.startswith("fovea_stage_seconds_bucket") and f"stage={stage}" in name]
        bounds = [float(name.split("le=")[1].split()[0]) for name in series]
        assert bounds[0] <= 0.0001
        assert bounds[-2:] == [10, float("inf")]
        assert all(upper <= 2 * lower for lower, upper in pairwise(bounds[:-1]))


def test_openmetrics_has_the_same_series_and_examples_of_requests() -> None:
    """Read by a strict parser of that format; a bucket's example is the latest trace of a request that took as long."""
    metrics = Metrics()
    for seconds, trace in [(0.004, "a" * 32), (0.0042, "b" * 32), (2.5, "c" * 32)]:
        metrics.request(route="/api/v1/predict", method="POST", status=200, seconds=seconds)
        metrics.exemplar(route="/api/v1/predict", method="POST", seconds=seconds, trace_id=trace)
    metrics.predicted("shapes", 2, "vertical", 3)
    metrics.watch_jobs(lambda: {"queued": 2})
    text = samples(metrics.render())
    found = openmetrics_samples(metrics.render(openmetrics=True))
    assert {series(sample) for sample in found} == text.keys()
    assert "fovea_predictions_total label=vertical model=shapes version=2" in text
    examples = [(s.labels["le"], s.exemplar.value, s.exemplar.labels) for s in found if s.exemplar]
    assert examples == [("0.005", 0.0042, {"trace_id": "b" * 32}), ("3.0", 2.5, {"trace_id": "c" * 32})]
    assert metrics.openmetrics_type.startswith("application/openmetrics-text; version=1.0.0")


def test_nothing_is_lost_when_threads_record_while_it_is_added_up() -> None:
    """Nor when nobody adds up in time, so that who records must."""
    metrics = Metrics()

    def record(number: int) -> None:
        for _ in range(40_000):
            metrics.stage("decode", 0.001)
            metrics.in_flight(1)
            metrics.predicted("shapes", 1, f"label{number % 2}", 2)
        metrics.in_flight(-40_000)

    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads take turns as often as they can
    try:
        with ThreadPoolExecutor(4) as pool:
            recording = [pool.submit(record, number) for number in range(4)]
            while not all(task.done() for task in recording):
                metrics.flush()
            for task in recording:
                task.result()
    finally:
        sys.setswitchinterval(usual)
    page = samples(metrics.render())
    assert page["fovea_stage_seconds_count stage=decode"] == 160_000
    assert page["fovea_predictions_total label=label0 model=shapes version=1"] == 160_000
    assert page["fovea_predictions_total label=label1 model=shapes version=1"] == 160_000
    assert page["fovea_images_in_flight"] == 0


def test_clients_cannot_make_series() -> None:
    """Paths that match no route, invented methods and unknown codes share one series each."""
    metrics = Metrics()
    for number in range(100):
        metrics.request(route=None, method=f"METHOD{number}", status=404, seconds=0)
        metrics.rejected(f"code{number}")
    page = samples(metrics.render())
    assert page["fovea_requests_total method=other route=unmatched status=404"] == 100
    assert page["fovea_rejected_total reason=other"] == 100
    assert len([series for series in page if series.startswith("fovea_requests_total")]) == 1


def test_two_apps_in_a_process_count_for_themselves() -> None:
    """Nothing is global."""
    first, second = Metrics(), Metrics()
    first.swapped("shapes")
    assert "fovea_model_swaps_total model=shapes" not in samples(second.render())


WORKER = """
import sys
from app.metrics import Metrics
metrics = Metrics()
metrics.predicted("shapes", 1, "vertical", 2)
metrics.batch("shapes", 1, 2, 0.25)
metrics.stage("decode", 0.1)
metrics.exemplar(route="/api/v1/predict", method="POST", seconds=0.1, trace_id="a" * 32)
metrics.in_flight(3)
metrics.ready("shapes", sys.argv[1] != "late")
metrics.loaded("shapes", 1, "fake", present=sys.argv[1] == "late")
metrics.watch_jobs(lambda: {"running": 1})
metrics.flush()
print("started", flush=True)
for line in sys.stdin:
    if line == "work\\n":
        sys.stdout.buffer.write(repr(metrics.work()).encode() + b"\\n")
    else:
        sys.stdout.buffer.write(metrics.render(openmetrics=line == "openmetrics\\n") + b"end\\n")
    sys.stdout.flush()
"""


def test_each_of_several_workers_answers_for_all(tmp_path: Path) -> None:
    """Counters are summed, also over workers that have died; gauges speak of the living; jobs are not summed."""
    env = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics")}

    def worker(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", WORKER, name]
        process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        return process

    def scrape(process: subprocess.Popen[str]) -> dict[str, float]:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("text\n")
        process.stdin.write("openmetrics\n")
        process.stdin.flush()
        page, strict = ("".join(iter(process.stdout.readline, "end\n")) for _ in range(2))
        found = samples(page.encode())
        assert {series(sample) for sample in openmetrics_samples(strict.encode())} == found.keys()
        return found

    with worker("early") as early, worker("late") as late:
        try:
            pages = [scrape(early), scrape(late)]
            assert pages[0] == pages[1]
            assert pages[0]["fovea_predictions_total label=vertical model=shapes version=1"] == 4
            assert pages[0]["fovea_stage_seconds_count stage=decode"] == 2
            assert pages[0]["fovea_images_in_flight"] == 6
            assert pages[0]["fovea_model_ready model=shapes"] == 0
            assert pages[0]["fovea_model_info model=shapes runtime=fake version=1"] == 1
            assert pages[0]["fovea_jobs state=running"] == 1
            assert early.stdin is not None
            assert early.stdout is not None
            print("work", file=early.stdin, flush=True)
            assert early.stdout.readline() == "{('shapes', 1): Work(images=4, batches=2, seconds=0.5)}\n"
            late.kill()
            late.wait()
            page = scrape(early)
            assert page["fovea_predictions_total label=vertical model=shapes version=1"] == 4
            assert page["fovea_images_in_flight"] == 3
            assert page["fovea_model_ready model=shapes"] == 1
            assert "fovea_model_info model=shapes runtime=fake version=1" not in page
            assert page["fovea_jobs state=running"] == 1
        finally:
            early.kill()
            late.kill()


def test_shared_metrics_that_come_too_late_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Better no start than one worker's numbers passed off as those of all."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with pytest.raises(RuntimeError, match="set it earlier"):
        Metrics()
