"""What takes long does not hold up what does not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api import datasets as datasets_route
from app.api import training_jobs
from app.api.pools import Pools, run_in
from app.api.uploads import uploads, write
from app.store.registry import Registry
from tests.api.conftest import API, StartAPI
from tests.api.test_datasets import images, make_zip
from tests.serving.versions import gray

CALLS = 8


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Opened at the end at the latest, so that no thread stays behind."""
    gate = threading.Event()
    yield gate
    gate.set()


@pytest.fixture
async def few_threads() -> None:
    """The loop has as few threads of its own as it would have on a small machine, and fewer."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(2))


def blocked(function: Callable[..., Any], gate: threading.Event) -> tuple[Callable[..., Any], threading.Semaphore]:
    """`function`, but each call waits for the gate; and how many calls have begun."""
    begun = threading.Semaphore(0)

    def wait(*arguments: Any, **options: Any) -> Any:
        begun.release()
        gate.wait(60)
        return function(*arguments, **options)

    return wait, begun


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await asyncio.sleep(0.01)


async def answers_and_follows(api: API, registry: Registry) -> None:
    """The metrics are answered, and a promotion by another process is picked up."""
    async with asyncio.timeout(20):
        assert (await api.client.get("/metrics")).status_code == 200
    await follows(api, registry)


async def follows(api: API, registry: Registry) -> None:
    registry.promote("shapes", 2, by="another process")

    async def answered_by_it() -> bool:
        version: int = (await api.client.post("/api/v1/predict", content=gray(0))).json()["version"]
        return version == 2

    await until(answered_by_it)


def upload(api: API, number: int) -> asyncio.Task[httpx.Response]:
    content = make_zip(images())
    return asyncio.create_task(api.client.post(f"/api/v1/datasets?name=shades{number}", content=content))


@pytest.mark.usefixtures("few_threads")
async def test_datasets_being_checked_hold_up_nothing_else(
    start: StartAPI, registry: Registry, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While many archives are checked, metrics are answered, promotions are followed, and further archives come in;
    those wait their turn, and all become datasets."""
    api = await start()
    wait, begun = blocked(api.services.datasets.add, gate)
    monkeypatch.setattr(api.services.datasets, "add", wait)
    tasks = [upload(api, number) for number in range(CALLS)]
    received = uploads(api.services.settings.workspace)
    await until(lambda: received.exists() and len(list(received.iterdir())) == CALLS and begun.acquire(blocking=False))
    await answers_and_follows(api, registry)
    assert not any(task.done() for task in tasks)
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [201] * CALLS


@pytest.mark.usefixtures("few_threads")
async def test_uploads_to_a_hanging_disk_hold_up_nothing_else(
    start: StartAPI, registry: Registry, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While writes of uploads hang, metrics are answered and promotions are followed."""
    api = await start()
    wait, begun = blocked(write, gate)
    monkeypatch.setattr(datasets_route, "write", wait)
    tasks = [upload(api, number) for number in range(CALLS)]
    await until(lambda: begun.acquire(blocking=False))
    await answers_and_follows(api, registry)
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [201] * CALLS


@pytest.mark.usefixtures("few_threads")
async def test_many_followed_jobs_hold_up_nothing_else(
    start: StartAPI, registry: Registry, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While looks at jobs' folders take long, metrics are answered and promotions are followed."""
    api = await start()
    job = (await api.client.post("/api/v1/training-jobs", json={"dataset": "shapes"})).json()["id"]
    await api.client.post(f"/api/v1/training-jobs/{job}/cancel")
    wait, begun = blocked(training_jobs._look, gate)
    monkeypatch.setattr(training_jobs, "_look", wait)
    address = f"/api/v1/training-jobs/{job}/events"
    tasks = [asyncio.create_task(api.client.get(address)) for _ in range(CALLS)]
    await until(lambda: begun.acquire(blocking=False))
    await answers_and_follows(api, registry)
    gate.set()
    assert all("cancelled" in response.text for response in await asyncio.gather(*tasks))


@pytest.mark.usefixtures("few_threads")
async def test_scrapes_that_hang_hold_up_no_promotion(
    start: StartAPI, registry: Registry, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While scrapes hang on a disk that does, promotions are followed."""
    api = await start()
    wait, begun = blocked(api.services.metrics.render, gate)
    monkeypatch.setattr(api.services.metrics, "render", wait)
    tasks = [asyncio.create_task(api.client.get("/metrics")) for _ in range(CALLS)]
    await until(lambda: begun.acquire(blocking=False))
    await follows(api, registry)
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * CALLS


@pytest.mark.usefixtures("few_threads")
async def test_versions_being_verified_hold_up_nothing_else(
    start: StartAPI, registry: Registry, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While many ask to promote what answers already, whose files are read each time, the keys, metrics and
    predictions have threads left."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(3))
    api = await start()
    wait, begun = blocked(api.services.registry.verify, gate)
    monkeypatch.setattr(api.services.registry, "verify", wait)
    tasks = [
        asyncio.create_task(api.client.post("/api/v1/models/shapes/promote", json={"version": 1})) for _ in range(CALLS)
    ]
    await until(lambda: begun.acquire(blocking=False))
    async with asyncio.timeout(20):
        assert (await api.client.get("/api/v1/models")).status_code == 200
    gate.set()
    assert [response.status_code for response in await asyncio.gather(*tasks)] == [200] * CALLS


async def test_what_waits_for_a_thread_is_never_begun_once_closed(gate: threading.Event, tmp_path: Path) -> None:
    """At the end of the service, an archive that waits for its turn is given up; the one being checked goes on."""
    pools = Pools()
    running = [asyncio.create_task(run_in(pools.checking, gate.wait, 30)) for _ in range(2)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(run_in(pools.checking, (tmp_path / "begun").touch))
    await asyncio.sleep(0)
    pools.close()
    gate.set()
    assert await asyncio.gather(*running) == [True, True]
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not (tmp_path / "begun").exists()
