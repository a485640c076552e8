"""Both clients by one suite, and a real server for them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from app.client import AsyncClient, Client
from app.store.registry import Registry
from tests.server import Server, running
from tests.serving.versions import add_version, gray

MAX_FILES = 4


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with `cifar10` (two versions, the first in production) that takes four images in a request."""
    folder = tmp_path_factory.mktemp("server")
    registry = Registry(folder / "store")
    add_version(registry, "cifar10", promote=True)
    add_version(registry, "cifar10")
    with running(folder, max_files=MAX_FILES) as server:
        yield server


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two classes, dark and light, ten pictures each, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    for label, level in (("dark", 0), ("light", 200)):
        (folder / label).mkdir()
        for number in range(10):
            (folder / label / f"{number}.png").write_bytes(gray(level + number))
    (folder / "notes.txt").write_text("no picture")
    return folder


class Driver(Protocol):
    """Does something with a client, and returns what comes of it; of iterators, all that they give, as a list."""

    def __call__(self, action: Callable[[Any], Any]) -> Any: ...


class Connect(Protocol):
    """Makes a client of one of the two kinds."""

    def __call__(self, url: str, **options: Any) -> Driver: ...


@pytest.fixture(params=["blocking", "awaiting"])
def variant(request: pytest.FixtureRequest) -> str:
    """Which of the two clients."""
    name: str = request.param
    return name


@pytest.fixture
def connect(variant: str) -> Iterator[Connect]:
    """Clients that are closed at the end of the test."""
    with ExitStack() as stack:
        if variant == "blocking":
            yield lambda url, **options: _blocking(stack.enter_context(Client(url, **options)))
        else:
            runner = stack.enter_context(asyncio.Runner())
            clients = AsyncExitStack()

            def connect(url: str, **options: Any) -> Driver:
                client = AsyncClient(url, **options)
                runner.run(_enter(clients, client))
                return lambda action: runner.run(_awaited(action(client)))

            yield connect
            runner.run(clients.aclose())


@pytest.fixture
def client(connect: Connect, server: Server) -> Driver:
    """A client of the real server."""
    return connect(server.url)


def _blocking(client: Client) -> Driver:
    def drive(action: Callable[[Any], Any]) -> Any:
        value = action(client)
        return list(value) if isinstance(value, Iterator) else value

    return drive


async def _enter(clients: AsyncExitStack, client: AsyncClient) -> None:
    await clients.enter_async_context(client)


async def _awaited(value: Awaitable[Any] | AsyncIterator[Any]) -> Any:
    if inspect.isawaitable(value):
        return await value
    return [entry async for entry in value]
