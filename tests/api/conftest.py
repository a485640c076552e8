"""An application around a small store, called without a network; and keys for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from app.api.application import Application
from app.api.security import make_key
from app.api.services import Services
from app.main import assemble, build_services
from app.serving.classifier import Classifier
from app.serving.runtimes.base import RuntimeLoader
from app.settings import Settings
from app.store.registry import Registry
from tests.server import Server, running
from tests.serving.versions import add_version


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio only."""
    return "asyncio"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """A store with `shapes`: version 1 in production, version 2 not."""
    registry = Registry(tmp_path / "store")
    add_version(registry, promote=True)
    add_version(registry)
    return registry


@dataclass(frozen=True)
class API:
    """An application and a client of it."""

    app: Application
    services: Services
    client: httpx.AsyncClient


class StartAPI(Protocol):
    def __call__(self, *, load_runtime: RuntimeLoader | None = None, **settings: Any) -> Awaitable[API]: ...


@pytest.fixture
async def start(tmp_path: Path, registry: Registry) -> AsyncIterator[StartAPI]:
    """Starts applications on the store of `registry`, with the fake runtime."""
    async with AsyncExitStack() as stack:

        async def start(*, load_runtime: RuntimeLoader | None = None, **settings: Any) -> API:
            values: dict[str, Any] = {
                "model_store": tmp_path / "store",
                "workspace": tmp_path / "workspace",
                "runtime": "fake",
                "executor": "none",
                "lanes": 1,
                "access_log": "all",
                "inference_threads": 1,
                "poll_interval": 0.02,
            }
            services = build_services(Settings(**(values | settings)))
            if load_runtime is not None:
                classifier = Classifier(registry, services.settings, services.metrics, load_runtime=load_runtime)
                services = replace(services, classifier=classifier)
            stack.push_async_callback(services.classifier.stop)
            stack.callback(services.explaining.close)
            await services.classifier.start()
            app = assemble(services)
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", timeout=30)
            await stack.enter_async_context(client)
            return API(app, services, client)

        yield start


@pytest.fixture
async def api(start: StartAPI) -> API:
    """An application with the settings that it has by default."""
    return await start()


@dataclass(frozen=True)
class Keyring:
    """A file of keys, and the keys themselves by the name of their scope."""

    path: Path
    keys: dict[str, str]

    def headers(self, name: str) -> dict[str, str]:
        """The header that a client with this key sends."""
        return {"Authorization": f"Bearer {self.keys[name]}"}


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    """Three keys: `predict`, `train` and `admin`, each with the scope of its name."""
    made = {name: make_key(name, [name]) for name in ("predict", "train", "admin")}
    path = tmp_path / "keys"
    path.write_text("# who may call\n" + "".join(f"{line}\n" for _, line in made.values()))
    return Keyring(path, {name: key for name, (key, _) in made.items()})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server on a store with `shapes`; a body may take 1 s."""
    folder = tmp_path_factory.mktemp("server")
    registry = Registry(folder / "store")
    add_version(registry, promote=True)
    add_version(registry)
    with running(folder, body_timeout=1) as server:
        yield server


Problem = Callable[[httpx.Response, int, str], dict[str, Any]]


@pytest.fixture(scope="session")
def problem() -> Problem:
    """Checks that an answer is a problem document of a status and code, and returns it."""

    def problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
        assert response.headers["content-type"] == "application/problem+json", response.text
        document: dict[str, Any] = response.json()
        assert (response.status_code, document["status"], document["code"]) == (status, status, code), document
        assert document["type"] == f"/docs/errors#{code}"
        assert document["title"]
        assert document["detail"].rstrip(")'\"")[-1:] not in ("", " "), document
        assert document["id"] == response.headers["x-request-id"]
        assert "Traceback" not in response.text
        return document

    return problem
