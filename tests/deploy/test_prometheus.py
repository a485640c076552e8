"""A real Prometheus scrapes a real server, with the committed configuration and rules."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from app.store.registry import Registry
from tests.collector import collecting
from tests.deploy.test_proxy import free_port
from tests.server import Server, running, wait_for
from tests.serving.versions import add_version, gray
from tests.system import require_tool

DEPLOY = Path(__file__).parents[2] / "deploy"
IMAGES = 24


@dataclass(frozen=True)
class Prometheus:
    client: httpx.Client

    def api(self, path: str, **parameters: str) -> Any:
        response = self.client.get(f"/api/v1/{path}", params=parameters)
        assert response.status_code == 200, response.text
        return response.json()["data"]

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series now."""
        return [(s["metric"], float(s["value"][1])) for s in self.api("query", query=expression)["result"]]

    def value(self, expression: str) -> float | None:
        """The one value; None if there is none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0][1] if found else None

    def ready(self) -> bool:
        try:
            return self.client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def prometheus(folder: Path, target: Server, *options: str) -> Iterator[Prometheus]:
    """The committed configuration, but for the address of the service and a shorter interval; further `options` of
    its command."""
    configuration = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "250ms", "evaluation_interval": "250ms"}
    configuration["rule_files"] = [str(DEPLOY / "prometheus" / pattern) for pattern in configuration["rule_files"]]
    [job] = [job for job in configuration["scrape_configs"] if job["job_name"] == "fovea"]
    del job["dns_sd_configs"]
    job["static_configs"] = [{"targets": [f"127.0.0.1:{target.port}"]}]
    configuration["scrape_configs"] = [job]
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [
        require_tool("prometheus"),
        f"--config.file={file}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        *options,
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            running = Prometheus(client)
            wait_for(running.ready, what="Prometheus's start")
            yield running
    finally:
        process.terminate()
        process.wait(20)


def serve(folder: Path, **settings: Any) -> AbstractContextManager[Server]:
    """A server with two versions of a model for the fake runtime, the first in production."""
    registry = Registry(folder / "store")
    add_version(registry, promote=True)
    add_version(registry)
    return running(folder, **settings)


def test_the_configuration_and_the_rules_are_valid() -> None:
    """promtool finds no fault with them."""
    tool = require_tool("promtool")
    file = DEPLOY / "prometheus/prometheus.yml"
    done = subprocess.run([tool, "check", "config", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "rules found" in done.stdout


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    """tests/deploy/alerts.yml has a case for each."""
    tool = require_tool("promtool")
    cases = Path(__file__).parent / "alerts.yml"
    done = subprocess.run([tool, "test", "rules", cases], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    [group] = yaml.safe_load((DEPLOY / "prometheus/rules/fovea.yml").read_text())["groups"]
    fired = {
        check["alertname"]
        for case in yaml.safe_load(cases.read_text())["tests"]
        for check in case["alert_rule_test"]
        if check["exp_alerts"]
    }
    assert fired == {rule["alert"] for rule in group["rules"]}


@pytest.mark.parametrize("workers", [1, 2])
def test_prometheus_counts_what_was_served(tmp_path: Path, workers: int) -> None:
    """Each request, image and job once, whichever worker served it and whichever answers the scrape."""
    with serve(tmp_path, workers=workers) as server, prometheus(tmp_path, server) as prom:

        def classify(number: int) -> int:
            # A new connection each, several at a time: any worker may take it.
            image = gray(0 if number % 3 else 255)
            return httpx.post(f"{server.url}/api/v1/predict", content=image, timeout=30).status_code

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(classify, range(IMAGES))) == [200] * IMAGES
        assert server.client.post("/api/v1/predict", content=b"no image").status_code >= 400
        assert server.client.post("/api/v1/training-jobs", json={"dataset": "shapes"}).status_code == 202

        route = 'route="/api/v1/predict"'
        wait_for(lambda: prom.value(f"sum(fovea_requests_total{{{route}}})") == IMAGES + 1, what="the last scrape")
        assert prom.query("up") == [({"__name__": "up", "job": "fovea", "instance": f"127.0.0.1:{server.port}"}, 1)]
        assert prom.value(f'sum(fovea_requests_total{{{route}, status="200", method="POST"}})') == IMAGES
        assert prom.value(f"sum(fovea_request_seconds_count{{{route}}})") == IMAGES + 1
        by_label = prom.query("sum by (model, version, label) (fovea_predictions_total)")
        assert sorted((s["model"], s["version"], s["label"], count) for s, count in by_label) == [
            ("shapes", "1", "diagonal", IMAGES / 3),
            ("shapes", "1", "horizontal", IMAGES / 3 * 2),
        ]
        assert prom.value('fovea_stage_seconds_count{stage="inference"}') == prom.value("sum(fovea_batch_size_count)")
        assert prom.value("fovea_batch_size_sum") == IMAGES
        assert prom.value('fovea_rejected_total{reason="unsupported_image_format"}') == 1
        assert prom.value("fovea_images_in_flight") == 0
        assert prom.value('fovea_model_info{model="shapes", version="1"}') == 1
        assert prom.value('fovea_model_ready{model="shapes"}') == 1
        wait_for(lambda: prom.value('fovea_jobs{state="queued"}') == 1, what="the queued job")


def test_prometheus_keeps_traces_as_examples_of_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for OpenMetrics by itself, and finds with a bucket of the latency the trace of a request in it."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with ExitStack() as stack:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", stack.enter_context(collecting()).url)
        server = stack.enter_context(serve(tmp_path, tracing="otlp"))
        prom = stack.enter_context(prometheus(tmp_path, server, "--enable-feature=exemplar-storage"))
        headers = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01"}
        assert server.client.post("/api/v1/predict", content=gray(0), headers=headers).status_code == 200

        def examples() -> Any:
            now = time.time()
            name = "fovea_request_seconds_bucket"
            return prom.api("query_exemplars", query=name, start=str(now - 60), end=str(now + 60))

        [found] = wait_for(examples, what="the example")
        assert found["seriesLabels"]["route"] == "/api/v1/predict"
        assert [example["labels"] for example in found["exemplars"]] == [{"trace_id": trace}]
        assert float(found["exemplars"][0]["value"]) <= float(found["seriesLabels"]["le"])


def test_rules_and_dashboard_work_on_what_the_server_says(tmp_path: Path) -> None:
    """Every rule is evaluated without an error or a false alarm; every panel finds data."""
    with serve(tmp_path) as server, prometheus(tmp_path, server) as prom:
        assert server.client.post("/api/v1/predict", content=gray(255)).status_code == 200
        assert server.client.post("/api/v1/predict", content=b"no image").status_code >= 400
        promoted = server.client.post("/api/v1/models/shapes/promote", json={"version": 2, "reason": "test"})
        assert promoted.status_code == 200
        wait_for(lambda: prom.query('fovea_model_info{version="2"}'), what="the scrape of the new version")
        # Rates need two scrapes.
        scrapes = "count_over_time(fovea_rejected_total[1m])"
        wait_for(lambda: (prom.value(scrapes) or 0) >= 2, what="the second scrape")

        def rules() -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = [rule for group in prom.api("rules")["groups"] for rule in group["rules"]]
            return found

        wait_for(lambda: all(rule["health"] != "unknown" for rule in rules()), what="the first look at the rules")
        assert len(rules()) == 10
        assert {rule["name"]: rule["health"] for rule in rules() if rule["health"] != "ok"} == {}
        assert [rule["name"] for rule in rules() if rule["state"] != "inactive"] == []

        panels = json.loads((DEPLOY / "grafana/dashboards/fovea.json").read_text())["panels"]
        queries = [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
        # There is nothing to see of these in a healthy service.
        silent = ("fovea_version_refusals_total", "fovea_golden_warnings_total")
        empty = [
            (title, expression)
            for title, expression in queries
            if not any(name in expression for name in silent)
            and not prom.query(expression.replace("$__rate_interval", "1m").replace("$model", ".*"))
        ]
        assert empty == []
