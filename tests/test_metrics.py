"""What the service measures about itself."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.metrics import Metrics, Rejection, Stage

DOCUMENT = Path(__file__).parent.parent / "docs" / "metrics.md"


def samples(page: bytes) -> dict[str, float]:
    """Every sample of a page, by its series; read by Prometheus' own parser."""
    return {
        sample.name + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(page.decode())
        for sample in family.samples
    }


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
    with metrics.timed("render"):
        pass
    metrics.batch("shapes", 3)
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
        "fovea_request_seconds_bucket le=0.0025 method=POST route=/api/v1/predict": 0,
        "fovea_request_seconds_bucket le=0.005 method=POST route=/api/v1/predict": 1,
        "fovea_stage_seconds_sum stage=decode": 0.0002,
        "fovea_stage_seconds_count stage=render": 1,
        "fovea_batch_size_bucket le=2.0 model=shapes": 0,
        "fovea_batch_size_bucket le=4.0 model=shapes": 1,
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
metrics.stage("decode", 0.1)
metrics.in_flight(3)
metrics.ready("shapes", sys.argv[1] != "late")
metrics.loaded("shapes", 1, "fake", present=sys.argv[1] == "late")
metrics.watch_jobs(lambda: {"running": 1})
print("started", flush=True)
for line in sys.stdin:
    sys.stdout.buffer.write(metrics.render() + b"end\\n")
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
        process.stdin.write("scrape\n")
        process.stdin.flush()
        return samples("".join(iter(process.stdout.readline, "end\n")).encode())

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
