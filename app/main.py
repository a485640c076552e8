"""The one place where the parts are wired. Nothing is built at import."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

import app as package
from app.api import (
    banner,
    datasets,
    docs,
    errors,
    health,
    logs,
    metrics,
    models,
    openapi,
    predict,
    server,
    training_jobs,
    workers,
)
from app.api.budget import Budget
from app.api.crew import Crew
from app.api.lingering import Lingering
from app.api.observation import Observation
from app.api.origin import OriginGuard
from app.api.security import Keys
from app.api.services import Services
from app.api.traced_requests import TracedRequests
from app.api.tracing import Tracing
from app.cores import available_cores
from app.jobs.executors.local_process import LocalProcess, trainer_environment
from app.jobs.jobs import Jobs
from app.jobs.supervisor import Supervisor
from app.metrics import Metrics
from app.preprocessing import ignore_decoder_warnings
from app.serving.classifier import Classifier
from app.serving.sizing import Sizing, Suitable, free_memory, own_memory, suitable_workers
from app.settings import Settings
from app.store.datasets import Datasets
from app.store.registry import Registry

logger = logging.getLogger(__name__)

_DESCRIPTION = """Post an image: labels with softmax probabilities come back from a versioned model. Post a labelled
folder: it trains, evaluates and registers the next version, which goes live without a dropped request.

Errors are problem documents (RFC 9457); [their codes](/docs/errors). Where keys are on, send
`Authorization: Bearer KEY` or `X-API-Key: KEY`."""

_TAGS = [
    {"name": "predict", "description": "Images in, labels and probabilities out."},
    {"name": "models", "description": "Versions, what they were measured at, and which of them answers."},
    {"name": "datasets", "description": "Labelled images to train on."},
    {"name": "training", "description": "Jobs that make the next version."},
    {"name": "health", "description": "Probes and metrics."},
]


# So many of the largest bodies are held at a time; of ordinary photos, thousands.
_BODIES = 16


class Application(FastAPI):
    """FastAPI with an OpenAPI document that also has what is no FastAPI route, and a short way for the hot one."""

    short: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer predict requests past the framework's router and layers, and all others through them."""
        if scope["type"] == "http" and scope["path"] == predict.PATH and scope["method"] == "POST":
            scope["app"] = self
            await self.short(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        """The document, built once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.build(self)
        return self.openapi_schema


def build_services(settings: Settings, crew: Crew | None = None) -> Services:
    """The rooms below the API; nothing is loaded or started. `crew`: of a process that is not alone on its port.

    Raises:
        ConfigurationError: settings that must not start, or keys that cannot be read.
    """
    settings.check()
    crew = crew or Crew()
    service_metrics = Metrics()
    registry = Registry(settings.model_store)
    jobs = Jobs(settings.workspace / "jobs")
    classifier = Classifier(registry, crew.share(settings), service_metrics)
    service_metrics.watch_jobs(lambda: {str(state): number for state, number in jobs.counts().items()})
    return Services(
        settings=settings,
        metrics=service_metrics,
        registry=registry,
        classifier=classifier,
        datasets=Datasets(
            settings.workspace / "datasets",
            max_bytes=settings.max_dataset_bytes,
            max_files=settings.max_dataset_files,
            max_pixels=settings.max_pixels,
        ),
        jobs=jobs,
        keys=Keys(settings.api_keys) if settings.api_keys is not None else None,
        bodies=Budget(
            math.ceil(_BODIES / crew.size) * settings.max_body_bytes, service_metrics, classifier.retry_after
        ),
        crew=crew,
        tracing=None if settings.tracing == "off" else Tracing(),
    )


def create_app(settings: Settings, crew: Crew | None = None) -> FastAPI:
    """The service as an ASGI application. `crew`: of a process that is not alone on its port.

    Raises:
        ConfigurationError: settings that must not start, or keys that cannot be read.
    """
    return assemble(build_services(settings, crew))


def assemble(services: Services) -> FastAPI:
    """The application around rooms that are there already."""
    app = Application(
        title="Fovea",
        version=package.__version__,
        summary="Image classification as a service you run yourself.",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=errors.handlers(),
        lifespan=_lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.state.services = services
    hot = predict.route()
    # Plain routes before all others: routes are tried in order, and these are called most.
    app.router.routes.extend([hot, *health.routes(), *metrics.routes(), *docs.routes()])
    for router in (models.router, datasets.router, training_jobs.router):
        app.router.routes.extend(router.routes)
    app.short = predict.Short(hot)
    # From the innermost to the outermost.
    layers: list[tuple[Any, dict[str, Any]]] = [
        (OriginGuard, {"services": services}),
        (Lingering, {}),
        (Observation, {"services": services}),
    ]
    if services.tracing is not None:
        layers.append((TracedRequests, {"tracing": services.tracing, "metrics": services.metrics}))
    for layer, options in layers:
        app.add_middleware(layer, **options)
        app.short = layer(app.short, **options)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    services: Services = app.state.services
    settings = services.settings
    await asyncio.to_thread(_tidy, services)
    async with AsyncExitStack() as stack:
        stack.callback(services.pools.close)
        # At the very end too: other processes answer for what this one counted.
        stack.callback(services.metrics.flush)
        stack.push_async_callback(_end, asyncio.create_task(metrics.flush_regularly(services.metrics)))
        if services.tracing is not None:
            services.tracing.start()
            stack.push_async_callback(services.tracing.stop)
        if services.keys is not None:
            stack.push_async_callback(_end, asyncio.create_task(services.keys.follow()))
        if settings.executor == "local":
            executor = LocalProcess(trainer_environment(settings))
            supervising = Supervisor(services.jobs, executor).running()
            await asyncio.to_thread(supervising.__enter__)
            stack.push_async_callback(asyncio.to_thread, supervising.__exit__, None, None, None)
        stack.push_async_callback(services.classifier.stop)
        starting = asyncio.create_task(_start(services))
        stack.push_async_callback(_end, starting)
        # Else probes are answered while models load, which can take long.
        if services.crew.loads_first:
            await starting
        try:
            yield
        finally:
            services.lifecycle.stopping = True


async def _start(services: Services) -> None:
    try:
        await services.classifier.start()
    except Exception:
        # Nobody awaits this task; without a word the service would stay "starting" for ever.
        logger.exception("The models could not be loaded.")
        raise
    services.crew.report_loaded(await asyncio.to_thread(_suitable_workers, services))
    services.lifecycle.loaded.set()


def _suitable_workers(services: Services) -> Suitable:
    """How many processes would suit the models that were loaded."""
    settings = services.settings
    if settings.workers != "auto":
        return Suitable(settings.workers, {})
    cores = available_cores()
    sizing = Sizing(settings.cache_folder, cores)
    tunings, models = [], {}
    for model in services.classifier.status().models:
        if model.serving is not None and model.tuning is not None:
            tunings.append(model.tuning)
            models[model.model] = model.serving
    workers = sizing.recall(models)
    if workers is None:
        seconds = [tuning.decode_seconds + tuning.seconds_per_image for tuning in tunings]
        workers = suitable_workers(seconds, cores, worker_bytes=own_memory(), free_bytes=free_memory())
        logger.info("%d processes suit the models on %d cores.", workers, cores)
    suitable = Suitable(workers, models)
    if services.crew.folder is None:
        sizing.settle(1, suitable)  # else the parent does
    return suitable


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError, Exception):
        await task


def _tidy(services: Services) -> None:
    """Make the workspace, and remove what processes left that died; never what the living hold."""
    # Where it cannot be made, whatever needs it says so in its own words.
    with suppress(OSError):
        services.settings.workspace.mkdir(parents=True, exist_ok=True)
    services.registry.clean()
    services.datasets.clean()
    datasets.clean_uploads(services.settings.workspace)


def serve_alone(settings: Settings, listener: socket.socket) -> None:
    """Run the service in this process until it is told to stop.

    Raises:
        ConfigurationError: keys that cannot be read.
    """
    _serve_here(settings, listener)


def _serve_here(settings: Settings, listener: socket.socket, crew: Crew | None = None) -> None:
    ignore_decoder_warnings()
    app = create_app(settings, crew)
    services: Services = app.state.services
    address, url = banner.listening(listener), banner.base_url(settings, listener)

    # Once, and not again by one that replaces the first.
    announces = crew is None or (crew.number == 0 and not crew.complete)

    async def announce() -> None:
        await services.lifecycle.loaded.wait()
        if not announces:
            return
        await services.crew.wait()
        sys.stdout.write(await asyncio.to_thread(banner.banner, services, address, url) + "\n")
        sys.stdout.flush()

    _tend_garbage()
    server.run(app, listener, announce)


def _tend_garbage() -> None:
    """Have the garbage collector look less often, and not at what is there before any model: it stays to the end.

    A request makes a few hundred objects and no cycles to speak of; with Python's own settings, made for programs
    that do, the collector takes a twentieth of the time of a service with a small model.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


def _worker(arguments: list[str]) -> None:
    """One of several processes; see `app.api.workers`."""
    worker = workers.Worker.parse(arguments)
    settings = Settings()
    logs.configure(settings.log_format, settings.log_level)
    server.end_with(worker.parent_pipe)
    _serve_here(settings, socket.socket(fileno=worker.listener), worker.crew)


if __name__ == "__main__":
    _worker(sys.argv[1:])
