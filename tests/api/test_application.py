"""What answers before FastAPI is there, and how FastAPI gets there."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.api import framework
from app.api.framework import Framework
from tests.api.conftest import API, Problem, StartAPI
from tests.server import running
from tests.serving.versions import gray

pytestmark = pytest.mark.anyio

_EVERYTHING = ("/openapi.json", "/docs", "/api/v1/models", "/api/v1/datasets", "/api/v1/training-jobs", "/docs/errors")

# Imported by nothing that is needed until the first answers are out; each takes some hundredths of a second.
_LATER = (
    "fastapi",
    "opentelemetry",
    "swagger_ui_bundle",
    "pydantic.v1",
    "httpx",
    "tensorflow",
    "keras",
    "openvino",
    "app.training",
    "app.api.models",
    "app.api.datasets",
    "app.api.training_jobs",
    "app.api.openapi",
)


def test_predict_probes_and_metrics_are_answered_without_fastapi(tmp_path: Path) -> None:
    """The first answers need nothing that takes long to import and that they have no use for."""
    code = f"""
import asyncio, sys
from pathlib import Path
from app.main import create_app
from app.settings import Settings

folder = Path({str(tmp_path)!r})
app = create_app(Settings(runtime="fake", executor="none", model_store=folder / "store", workspace=folder / "work"))

async def ask(method, path):
    async def receive():
        return {{"type": "http.request", "body": b"no image", "more_body": False}}
    async def send(message):
        if message["type"] == "http.response.start":
            print(method, path, message["status"])
    await app({{"type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": b"",
               "headers": [(b"host", b"localhost")], "http_version": "1.1", "scheme": "http",
               "server": ("localhost", 80)}}, receive, send)

async def main():
    async with app.router.lifespan_context(app):
        await app.state.services.lifecycle.loaded.wait()
        await ask("POST", "/api/v1/predict")
        for path in ("/health/live", "/health/startup", "/health/ready", "/metrics"):
            await ask("GET", path)
        print("loaded:", *[name for name in {_LATER!r} if name in sys.modules])
        await ask("GET", "/openapi.json")
        print("fastapi" in sys.modules)

asyncio.run(main())
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines() == [
        "POST /api/v1/predict 503",  # an empty store
        "GET /health/live 200",
        "GET /health/startup 200",
        "GET /health/ready 503",
        "GET /metrics 200",
        "loaded:",
        "GET /openapi.json 200",
        "True",
    ]


async def test_first_requests_for_all_else_may_come_at_once(api: API, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that need FastAPI wait for it together while it is built, once, and predict requests do not wait."""
    built, gate, real = [], threading.Event(), framework.build

    def build(*arguments: object) -> Framework:
        assert gate.wait(30)
        built.append(real(*arguments))  # type: ignore[arg-type]
        return built[0]

    monkeypatch.setattr(framework, "build", build)
    waiting = [asyncio.create_task(api.client.get(path)) for path in _EVERYTHING]
    unknown = asyncio.create_task(api.client.get("/nothing"))
    assert (await api.client.post("/api/v1/predict", content=gray(0))).status_code == 200
    assert (await api.client.get("/health/live")).status_code == 200
    assert not any(task.done() for task in waiting)
    gate.set()
    assert [(await task).status_code for task in waiting] == [200] * len(_EVERYTHING)
    assert (await unknown).status_code == 404
    assert len(built) == 1


async def test_a_client_that_leaves_does_not_stop_the_building(api: API, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked first may go away: the others, and later ones, are answered."""
    gate, real = threading.Event(), framework.build

    def build(*arguments: object) -> Framework:
        assert gate.wait(30)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(framework, "build", build)
    gone, stays = (asyncio.create_task(api.client.get("/openapi.json")) for _ in range(2))
    await asyncio.sleep(0.05)
    gone.cancel()
    await asyncio.sleep(0.05)
    gate.set()
    assert (await stays).status_code == 200
    assert gone.cancelled()


async def test_building_that_fails_is_a_problem_and_is_tried_again(
    start: StartAPI, problem: Problem, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If FastAPI cannot be built, requests that need it are problems, the reason is logged, and the next one tries
    again; predict requests are answered meanwhile."""
    api = await start()
    with monkeypatch.context() as broken:

        def fail(*_: object) -> Framework:
            raise OSError("too many open files")

        broken.setattr(framework, "build", fail)
        problem(await api.client.get("/api/v1/models"), 500, "error")
        assert "too many open files" in caplog.text
        assert (await api.client.post("/api/v1/predict", content=gray(0))).status_code == 200
    assert (await api.client.get("/api/v1/models")).status_code == 200


async def test_methods_that_short_routes_do_not_take_are_refused(api: API, problem: Problem) -> None:
    """A path with a short way refuses other methods as all paths do, and names those that it takes."""
    for path, allowed in (("/api/v1/predict", "POST"), ("/health/live", "GET, HEAD"), ("/metrics", "GET, HEAD")):
        response = await api.client.delete(path)
        problem(response, 405, "method_not_allowed")
        assert response.headers["allow"] == allowed
    assert (await api.client.head("/health/live")).status_code == 200


def test_a_stop_while_fastapi_is_built_is_orderly(tmp_path: Path) -> None:
    """A request that waits for FastAPI when SIGTERM comes is answered, and the service ends in good order."""
    with running(tmp_path) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
            client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            time.sleep(0.05)
            server.terminate()
            answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"paths"' in answer
        assert server.wait() == 0
        assert "Traceback" not in server.log


def test_a_stop_right_after_the_start_is_orderly(tmp_path: Path) -> None:
    """SIGTERM before FastAPI is there at all ends the service in good order."""
    with running(tmp_path) as server:
        server.terminate()
        assert server.wait() == 0
        assert "Traceback" not in server.log
