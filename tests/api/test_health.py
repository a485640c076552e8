"""Probes, metrics, and the log of requests."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest

from app.api import logs
from app.store.registry import Registry
from tests.api.conftest import API, Problem, StartAPI
from tests.serving.versions import add_version, gray


async def test_probes_of_a_service_that_is_well(api: API) -> None:
    """With every production version loaded all three probes answer 200."""
    for probe, status in (("live", "live"), ("ready", "ready"), ("startup", "started")):
        response = await api.client.get(f"/health/{probe}")
        assert (response.status_code, response.json()["status"]) == (200, status)
        assert response.headers["cache-control"] == "no-store"
        assert (await api.client.head(f"/health/{probe}")).status_code == 200


async def test_readiness_names_the_model_and_the_reason(start: StartAPI, registry: Registry, problem: Problem) -> None:
    """A model whose production version is refused makes the service not ready, and the answer says which and why;
    a request for it is refused, and not told to come again."""
    add_version(registry, "broken", promote=True, forge=lambda images, answers: (images, answers[:, ::-1]))
    api = await start()
    response = await api.client.get("/health/ready")
    assert response.status_code == 503
    models = response.json()["models"]
    assert models["shapes"]["state"] == "ready"
    assert models["broken"]["state"] == "unavailable"
    assert "golden" in models["broken"]["reason"]
    assert (await api.client.get("/health/live")).status_code == 200
    assert (await api.client.get("/health/startup")).status_code == 200
    said = problem(await api.client.post("/api/v1/predict?model=broken", content=gray(0)), 422, "version_refused")
    assert "golden" in said["detail"]
    asked = await api.client.post("/v1/models/broken:predict", json={"instances": [[0]]})
    assert (asked.status_code, "golden" in asked.json()["error"]) == (422, True)


async def test_service_that_stops_is_alive_but_not_ready(api: API) -> None:
    """From SIGTERM on the service is not ready, so that no new requests are sent to it."""
    api.services.lifecycle.stopping = True
    response = await api.client.get("/health/ready")
    assert (response.status_code, response.json()["status"]) == (503, "stopping")
    assert (await api.client.get("/health/live")).status_code == 200


async def test_empty_store_is_started_but_not_ready(start: StartAPI, registry: Registry, tmp_path: object) -> None:
    """Without any model the service has started, is not ready, and says what to do."""
    api = await start(model_store=registry.folder("shapes", 1) / "golden")
    assert (await api.client.get("/health/startup")).status_code == 200
    response = await api.client.get("/health/ready")
    assert response.status_code == 503
    assert "fovea train" in response.json()["reason"]


def series(page: str) -> set[str]:
    return {line.rpartition(" ")[0] for line in page.splitlines() if not line.startswith("#")}


async def request(api: API, method: str, path: str) -> None:
    """A request without a client around it: ten thousand of them shall not take long."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": [(b"host", b"127.0.0.1")]}
    await api.app(scope, receive, send)


async def test_random_paths_make_no_new_series(api: API) -> None:
    """10,000 different paths and methods leave the number of series as it was after the first few."""
    for method, path in (("GET", "/0"), ("M0", "/0"), ("POST", "/api/v1/models/x/promote"), ("GET", "/metrics")):
        await request(api, method, path)
    before = series((await api.client.get("/metrics")).text)
    for number in range(2500):
        await request(api, "GET", f"/{number}")
        await request(api, f"M{number}", f"/x/{number}")
        await request(api, "POST", f"/api/v1/models/x{number}/promote")
        await request(api, "GET", f"/api/v1/{number}%0afovea_forged 1")
    assert series((await api.client.get("/metrics")).text) == before


async def test_requests_are_counted_by_template_and_status(api: API) -> None:
    """A request is counted under its route's template, and its time recorded."""
    await api.client.post("/api/v1/predict", content=gray(0))
    await api.client.get("/api/v1/models/shapes")
    page = (await api.client.get("/metrics")).text
    assert 'fovea_requests_total{method="POST",route="/api/v1/predict",status="200"} 1.0' in page
    assert 'fovea_requests_total{method="GET",route="/api/v1/models/{model}",status="200"} 1.0' in page
    assert 'fovea_request_seconds_count{method="POST",route="/api/v1/predict"} 1.0' in page
    assert 'fovea_stage_seconds_count{stage="read"} 1.0' in page
    assert 'fovea_stage_seconds_count{stage="render"} 1.0' in page
    assert 'fovea_jobs{state="queued"} 0.0' in page


async def test_refused_bodies_are_counted(start: StartAPI) -> None:
    """What is refused before the classifier sees it is counted by its code."""
    api = await start(max_body_bytes=1024)
    await api.client.post("/api/v1/predict", content=b"x" * 2000)
    assert 'fovea_rejected_total{reason="payload_too_large"} 1.0' in (await api.client.get("/metrics")).text


async def test_each_request_is_one_line_with_template_status_and_time(
    api: API, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has one line a request: id, method, template, status and milliseconds; no path of the client's."""
    with caplog.at_level(logging.INFO, "fovea.access"):
        response = await api.client.get("/api/v1/models/nothing-here?")
    [record] = [record for record in caplog.records if record.name == "fovea.access"]
    assert record.__dict__["request_id"] == response.headers["x-request-id"]
    assert record.__dict__["route"] == "/api/v1/models/{model}"
    assert record.__dict__["status"] == 404
    assert record.__dict__["milliseconds"] >= 0
    assert "nothing-here" not in repr(vars(record))


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("room", logging.WARNING, __file__, 1, message, None, None)
    vars(made).update(extra)
    return made


HOSTILE = 'line\n2026-01-01T00:00:00Z INFO forged\r\x1b[31m "quoted" \u2028 end'


def test_text_log_cannot_be_forged() -> None:
    """A message with line breaks and escape sequences stays one line in the text log."""
    line = logs.TextLines().format(record(HOSTILE, request_id="abc", status=404))
    assert line.isprintable()
    assert "request_id=abc" in line
    assert "status=404" in line


def test_json_log_cannot_be_forged() -> None:
    """A message with line breaks stays one JSON object on one line in the JSON log."""
    line = logs.JSONLines().format(record(HOSTILE, request_id="abc", milliseconds=1.5))
    assert line.isascii()
    assert len(line.splitlines()) == 1
    entry = json.loads(line)
    assert entry["message"] == HOSTILE
    assert (entry["level"], entry["request_id"], entry["milliseconds"]) == ("warning", "abc", 1.5)


@pytest.mark.parametrize("style", ["json", "text"])
def test_stack_traces_are_kept(style: str) -> None:
    """The trace of an error is in the log, in either format."""
    try:
        raise KeyError("lost")
    except KeyError:
        made = logging.LogRecord("room", logging.ERROR, __file__, 1, "Failed", None, sys.exc_info())
    formatter = logs.JSONLines() if style == "json" else logs.TextLines()
    assert "KeyError: 'lost'" in formatter.format(made)


def test_configured_log_goes_to_stderr_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The log is written to stderr, from the level that was asked for."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    try:
        logs.configure("json", "warning")
        logging.getLogger("room").info("quiet")
        logging.getLogger("room").warning("loud")
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]
