"""Small models, exported once; and stores that hold versions of them."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from app.metrics import Metrics
from app.serving.classifier import Classifier
from app.serving.runtimes.base import RuntimeLoader
from app.settings import Settings
from app.store.registry import Registry


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let a test that waits for ever fail in its own task: from outside, its fixtures could not be ended any more."""
    if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
        item.obj = _bounded(item.obj)


def _bounded(test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    @functools.wraps(test)
    async def bounded(*args: Any, **kwargs: Any) -> None:
        async with asyncio.timeout(60):
            await test(*args, **kwargs)

    return bounded


@pytest.fixture
def anyio_backend() -> str:
    """The service runs on asyncio only."""
    return "asyncio"


@pytest.fixture(scope="session")
def saved_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the SavedModels that `tests.serving.saved_models` builds."""
    root = tmp_path_factory.mktemp("saved_models")
    command = [sys.executable, "-m", "tests.serving.saved_models", str(root)]
    done = subprocess.run(command, env={**os.environ, "PYTHONWARNINGS": "ignore"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


class StartClassifier(Protocol):
    def __call__(self, *, load_runtime: RuntimeLoader | None = None, **settings: Any) -> Awaitable[Classifier]: ...


@pytest.fixture
async def start(registry: Registry, metrics: Metrics) -> AsyncIterator[StartClassifier]:
    """Starts classifiers on the store, with the fake runtime unless told; stops them at the end."""
    async with AsyncExitStack() as stack:

        async def start(*, load_runtime: RuntimeLoader | None = None, **settings: Any) -> Classifier:
            values: dict[str, Any] = {
                "runtime": "fake",
                "poll_interval": 0.02,
                "lanes": 1,
                "inference_threads": 1,
            }
            classifier = Classifier(registry, Settings(**(values | settings)), metrics, load_runtime=load_runtime)
            stack.push_async_callback(classifier.stop)
            await classifier.start()
            return classifier

        yield start


@pytest.fixture
def sample(metrics: Metrics) -> Callable[..., float]:
    """Reads one sample from the metrics page: sample("fovea_x_total", label="value"); 0 if there is none."""

    def sample(name: str, **labels: str) -> float:
        wanted = name + ("{" + ",".join(f'{k}="{v}"' for k, v in sorted(labels.items())) + "}" if labels else "")
        for line in metrics.render().decode().splitlines():
            series, _, value = line.rpartition(" ")
            if series == wanted:
                return float(value)
        return 0.0

    return sample
