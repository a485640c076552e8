"""The one place where the parts are wired. Nothing is built at import."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress

from app import garbage
from app.api import banner, logs, metrics, server, workers
from app.api.application import Application
from app.api.budget import Budget
from app.api.crew import Crew
from app.api.security import Keys
from app.api.services import Services
from app.api.tracing import Tracing
from app.api.uploads import clean_uploads
from app.cores import available_cores
from app.jobs.executors.choice import make_executor
from app.jobs.jobs import Jobs
from app.jobs.supervisor import Supervisor
from app.metrics import Metrics
from app.preprocessing import ignore_decoder_warnings
from app.serving.classifier import Classifier
from app.serving.explaining import Explaining
from app.serving.sizing import Sizing, Suitable, free_memory, own_memory, suitable_workers
from app.settings import Settings
from app.store.datasets import Datasets
from app.store.registry import Registry
from app.trimming import return_large_blocks

logger = logging.getLogger(__name__)

# After the models are loaded, until what only rare requests need is built too. A request that needs it does not wait.
_FIRST_ANSWERS_SECONDS = 0.5

# So many of the largest bodies are held at a time; of ordinary photos, thousands.
_BODIES = 16


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
        explaining=Explaining(settings),
        bodies=Budget(
            math.ceil(_BODIES / crew.size) * settings.max_body_bytes, service_metrics, classifier.retry_after
        ),
        crew=crew,
        tracing=None if settings.tracing == "off" else Tracing(),
    )


def create_app(settings: Settings, crew: Crew | None = None) -> Application:
    """The service as an ASGI application. `crew`: of a process that is not alone on its port.

    Raises:
        ConfigurationError: settings that must not start, or keys that cannot be read.
    """
    return assemble(build_services(settings, crew))


def assemble(services: Services) -> Application:
    """The application around rooms that are there already."""
    return Application(services, _lifespan)


@asynccontextmanager
async def _lifespan(app: Application) -> AsyncIterator[None]:
    services: Services = app.state.services
    settings = services.settings
    await asyncio.to_thread(_tidy, services)
    async with AsyncExitStack() as stack:
        stack.callback(services.pools.close)
        stack.push_async_callback(asyncio.to_thread, services.explaining.close)
        # At the very end too: other processes answer for what this one counted.
        stack.callback(services.metrics.flush)
        stack.push_async_callback(_end, asyncio.create_task(metrics.flush_regularly(services.metrics)))
        if services.tracing is not None:
            services.tracing.start()
            stack.push_async_callback(services.tracing.stop)
        if services.keys is not None:
            stack.push_async_callback(_end, asyncio.create_task(services.keys.follow()))
        if settings.executor != "none":
            supervising = Supervisor(services.jobs, make_executor(settings)).running()
            await asyncio.to_thread(supervising.__enter__)
            stack.push_async_callback(asyncio.to_thread, supervising.__exit__, None, None, None)
        stack.push_async_callback(services.classifier.stop)
        starting = asyncio.create_task(_start(services))
        stack.push_async_callback(_end, starting)
        # Else probes are answered while models load, which can take long.
        if services.crew.loads_first:
            await starting
        if settings.grpc_port is not None:
            await stack.enter_async_context(await asyncio.to_thread(_grpc, services))
        try:
            yield
        finally:
            services.lifecycle.stopping = True


def _grpc(services: Services) -> AbstractAsyncContextManager[int]:
    """gRPC, which is imported only where it is asked for, and takes its time."""
    # What it writes of clients' mistakes is not in the form of our log, and it can be made to write much.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from app.api.protocols.rpc.server import serving

    return serving(services)


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
    clean_uploads(services.settings.workspace)


def serve_alone(settings: Settings, listener: socket.socket) -> None:
    """Run the service in this process until it is told to stop.

    Raises:
        ConfigurationError: keys that cannot be read.
    """
    _serve_here(settings, listener)


def serve_in_crew(arguments: list[str]) -> None:
    """Run the service in this process, which is one of several, until it is told to stop.

    Args:
        arguments: as `app.api.workers.Worker` gives them.

    Raises:
        ConfigurationError: keys that cannot be read.
    """
    worker = workers.Worker.parse(arguments)
    settings = Settings()
    logs.configure(settings.log_format, settings.log_level)
    server.end_with(worker.parent_pipe)
    _serve_here(settings, socket.socket(fileno=worker.listener), worker.crew)


def _serve_here(settings: Settings, listener: socket.socket, crew: Crew | None = None) -> None:
    ignore_decoder_warnings()
    return_large_blocks()
    app = create_app(settings, crew)
    services: Services = app.state.services
    address, url = banner.listening(listener), banner.base_url(settings, listener)

    # Once, and not again by one that replaces the first.
    announces = crew is None or (crew.number == 0 and not crew.complete)

    async def follow_up() -> None:
        await services.lifecycle.loaded.wait()
        await services.crew.wait()
        if announces:
            sys.stdout.write(await asyncio.to_thread(banner.banner, services, address, url) + "\n")
            sys.stdout.flush()
        # The first answers come first.
        await asyncio.sleep(_FIRST_ANSWERS_SECONDS)
        try:
            await app.complete()
        except Exception:
            logger.exception("Models, datasets and training cannot be asked about; the next request tries again.")
        garbage.settle()

    garbage.resume()
    server.run(app, listener, follow_up)
