"""OpenTelemetry traces of requests, sent to a collector."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.types import ASGIApp, Receive, Scope, Send

import app.api.tracing
from app.api.traced_requests import TracedRequests
from app.api.tracing import Tracing
from app.errors import ConfigurationError
from app.main import create_app
from app.metrics import Metrics
from app.settings import Settings
from app.store.registry import Registry
from tests.api.conftest import StartAPI
from tests.collector import Collector, attributes, collecting
from tests.server import running
from tests.serving.versions import gray

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector to which this process and its children send their traces."""
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        yield collector


@asynccontextmanager
async def traced(application: ASGIApp, metrics: Metrics | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a bare application in the middleware; at the end, all traces have been sent."""
    tracing = Tracing()
    tracing.start()
    transport = httpx.ASGITransport(
        TracedRequests(application, tracing, metrics or Metrics()), raise_app_exceptions=False
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        yield client
    await tracing.stop()


def answering(status: int, **keys: Any) -> ASGIApp:
    """An application that answers with a status, and leaves `keys` in the scope."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        scope.update({f"fovea.{key}": value for key, value in keys.items()})
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return application


def test_a_request_continues_the_trace_of_its_caller(tmp_path: Path, collector: Collector) -> None:
    """Its span is a child of the caller's, says what was asked and answered, and has reached the collector when the
    server has ended; the log has the trace's id."""
    from tests.serving.versions import add_version

    add_version(Registry(tmp_path / "store"), promote=True)
    with running(tmp_path, tracing="otlp", log_format="json") as server:
        url = f"{server.url}/api/v1/predict"
        headers = {"traceparent": SAMPLED, "tracestate": "vendor=1", "x-request-id": "mine"}
        assert httpx.post(url, content=gray(0), headers=headers).status_code == 200
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert httpx.get(f"{server.url}/metrics").status_code == 200
    [span] = [span for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER]
    assert span.name == "POST /api/v1/predict"
    assert (span.trace_id.hex(), span.parent_span_id.hex(), span.trace_state) == (TRACE, CALLER, "vendor=1")
    found = attributes(span.attributes)
    assert found["http.request.method"] == "POST"
    assert found["http.route"] == found["url.path"] == "/api/v1/predict"
    assert found["url.scheme"] == "http"
    assert found["http.response.status_code"] == 200
    assert found["fovea.request_id"] == "mine"
    assert collector.resources[0]["service.name"] == "fovea"
    lines = [json.loads(line) for line in server.log.splitlines() if '"request"' in line]
    assert [line["trace_id"] for line in lines if line["route"] == "/api/v1/predict"] == [TRACE]
    assert "trace_id" not in next(line for line in lines if line["route"] == "/health/live")


async def test_stages_are_spans_within_that_of_the_request(collector: Collector) -> None:
    """With the times at which they began and ended; the model and version are attributes."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        begin = time.perf_counter()
        await asyncio.sleep(0.02)
        scope["fovea.stages"] += [("decode", begin, begin + 0.005), ("inference", begin + 0.005, begin + 0.015)]
        await answering(200, model="shapes", version=3)(scope, receive, send)

    async with traced(application) as client:
        before = time.time_ns()
        await client.post("/x", headers={"traceparent": SAMPLED})
        after = time.time_ns()
    request, decode, inference = (collector.span(name) for name in ("POST", "decode", "inference"))
    assert attributes(request.attributes)["fovea.model"] == "shapes"
    assert attributes(request.attributes)["fovea.model_version"] == 3
    for stage in (decode, inference):
        assert (stage.trace_id.hex(), stage.parent_span_id) == (TRACE, request.span_id)
        assert request.start_time_unix_nano <= stage.start_time_unix_nano
        assert stage.end_time_unix_nano <= request.end_time_unix_nano
    assert decode.end_time_unix_nano - decode.start_time_unix_nano == pytest.approx(5e6, abs=1e4)
    assert inference.end_time_unix_nano - inference.start_time_unix_nano == pytest.approx(1e7, abs=1e4)
    assert inference.start_time_unix_nano == pytest.approx(decode.end_time_unix_nano, abs=1e4)
    # The clock of the wall may be set in between, but not by much.
    assert before - 1e9 < request.start_time_unix_nano < request.end_time_unix_nano < after + 1e9


async def test_a_request_of_many_images_does_not_fill_the_queue_alone(collector: Collector) -> None:
    """Of its stages, the first hundred are kept."""
    async with traced(answering(200, stages=[("decode", 0.0, 1.0)] * 5000)) as client:
        await client.get("/x")
    assert len(collector.spans) == 101


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("traceparent", "nonsense")],
        [("traceparent", f"00-{'0' * 32}-{CALLER}-01")],
        [("traceparent", f"ff-{TRACE}-{CALLER}-01")],
        [("traceparent", SAMPLED), ("traceparent", SAMPLED)],
        [("traceparent", SAMPLED + "\xff" * 5000)],
    ],
)
async def test_without_a_caller_that_makes_sense_a_trace_begins(
    collector: Collector, headers: list[tuple[str, str]]
) -> None:
    """A header that is missing, broken or there twice is no error, and continues nothing."""
    async with traced(answering(204)) as client:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        assert (await client.get("/x", headers=raw)).status_code == 204
    span = collector.span("GET")
    assert span.parent_span_id == b""
    assert span.trace_id.hex() != TRACE
    assert any(span.trace_id)


async def test_a_caller_that_does_not_sample_is_not_traced(start: StartAPI, collector: Collector, caplog: Any) -> None:
    """Nothing is sent, nor is it an example in the metrics; the log has the trace's id all the same."""
    api = await start(tracing="otlp")
    assert api.services.tracing is not None
    api.services.tracing.start()
    with caplog.at_level(logging.INFO, "fovea.access"):
        await api.client.get("/api/v1/models", headers={"traceparent": f"00-{TRACE}-{CALLER}-00"})
    await api.services.tracing.stop()
    assert collector.spans == []
    assert [record.trace_id for record in caplog.records if record.name == "fovea.access"] == [TRACE]
    assert b"trace_id" not in api.services.metrics.render(openmetrics=True)


async def test_a_trace_is_an_example_of_how_long_requests_take(start: StartAPI, collector: Collector) -> None:
    """In OpenMetrics' format, at the bucket of its route."""
    api = await start(tracing="otlp")
    assert api.services.tracing is not None
    api.services.tracing.start()
    await api.client.get("/api/v1/models", headers={"traceparent": SAMPLED})
    await api.services.tracing.stop()
    page = (await api.client.get("/metrics", headers={"Accept": "application/openmetrics-text"})).text
    [line] = [line for line in page.splitlines() if TRACE in line]
    assert line.startswith("fovea_request_seconds_bucket{")
    assert 'route="/api/v1/models"' in line
    assert f'# {{trace_id="{TRACE}"}}' in line


@pytest.mark.parametrize(("status", "failed"), [(200, False), (404, False), (429, False), (500, True), (504, True)])
async def test_only_the_server_s_own_faults_are_errors(collector: Collector, status: int, failed: bool) -> None:
    """As OpenTelemetry's conventions have it: what the client did wrong is no error of the server's span."""
    async with traced(answering(status)) as client:
        await client.get("/x")
    span = collector.span("GET")
    assert (span.status.code == Status.STATUS_CODE_ERROR) == failed
    assert attributes(span.attributes).get("error.type") == (str(status) if failed else None)


async def test_a_request_without_an_answer_is_traced_too(collector: Collector) -> None:
    """With the reason: the client went away, or what was raised."""

    async def silent(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise KeyError("x")

    async with traced(broken) as client:
        await client.get("/x")
    # httpx would not take silence for an answer.
    tracing = Tracing()
    tracing.start()
    scope = {"type": "http", "method": "BREW", "path": "/" + "x" * 9000, "headers": []}
    await TracedRequests(silent, tracing, Metrics())(scope, silent, silent)  # type: ignore[arg-type]
    await tracing.stop()
    assert attributes(collector.span("GET").attributes)["error.type"] == "KeyError"
    unanswered = attributes(collector.span("_OTHER").attributes)
    assert unanswered["error.type"] == "client_gone"
    assert len(unanswered["url.path"]) == 256


async def test_a_collector_that_hangs_holds_up_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are answered, and the end waits for a few seconds at most."""
    monkeypatch.setattr(app.api.tracing, "_STOP_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{listener.getsockname()[1]}")
        async with asyncio.timeout(10), traced(answering(200)) as client:
            assert (await client.get("/x")).status_code == 200


def test_without_the_packages_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The application does not start half."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    settings = Settings(runtime="fake", model_store=tmp_path, workspace=tmp_path, tracing="otlp")
    with pytest.raises(ConfigurationError, match=r"Install `fovea\[otel\]`, or set FOVEA_TRACING=off"):
        create_app(settings)


def test_while_off_nothing_of_it_is_there(tmp_path: Path) -> None:
    """Neither the packages nor the middleware."""
    code = (
        "import sys; from pathlib import Path\n"
        "from app.main import create_app; from app.settings import Settings\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "app = create_app(Settings(runtime='fake', model_store=folder, workspace=folder))\n"
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))],\n"
        "      'TracedRequests' in [layer.cls.__name__ for layer in app.user_middleware])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[] False", done.stderr
