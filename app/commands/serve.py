"""`fovea serve`: the port first, then one process or several."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import click

from app.commands.environment import load_settings
from app.garbage import paused, resume
from app.numpy_import import import_numpy

if TYPE_CHECKING:
    from app.settings import Settings


@click.command()
@click.option("--host", help="Address to listen on.  [default: FOVEA_HOST, or 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port; 0 picks a free one.  [default: FOVEA_PORT, or 8000]")
@click.option(
    "--workers",
    metavar="NUMBER|auto",
    help="Serving processes; auto: as many as suit the models.  [default: FOVEA_WORKERS, or 1]",
)
def serve(host: str | None, port: int | None, workers: str | None) -> None:
    """Start the service.

    In a container of Amazon SageMaker or Vertex AI it takes port, routes and model from their
    variables; docs/deployment.md has the calls.

    It stops on SIGTERM or Ctrl-C after the requests in flight. A training job that runs goes on
    by itself, and the next start takes it over.
    """
    with paused():
        run(load_settings(host=host, port=port, workers=workers))


def run(settings: Settings) -> None:
    """Run the service until it is told to stop.

    A process that only watches over others never loads what answers requests: it starts them sooner, and stays small.

    Raises:
        ConfigurationError: settings that must not start, keys that cannot be read, or an address that is taken.
        SystemExit: a worker process did not end in good order.
    """
    from app.api import listening, logs
    from app.commands import hosted
    from app.cores import available_cores
    from app.serving.sizing import Sizing

    logs.configure(settings.log_format, settings.log_level)
    settings, platform = hosted.settle(settings, os.environ)
    settings.check()
    listener = listening.listen(settings)
    if platform is not None:
        settings = hosted.take_in(settings, platform)
    grpc_port = listening.hold_grpc_port(settings)
    if grpc_port is not None:
        settings = settings.model_copy(update={"grpc_port": grpc_port.getsockname()[1]})
    cores = available_cores()
    processes: int | None
    if settings.workers != "auto":
        processes = settings.workers
    else:
        processes = 1 if cores == 1 else Sizing(settings.cache_folder, cores).recall()
    if processes == 1:
        import_numpy()
        from app.main import serve_alone

        serve_alone(settings, listener)
        return
    _check(settings)
    from app.api.workers import run_workers
    from app.jobs.executors.local_process import trainer_environment

    resume()
    # What the workers share is on disk, so they need only know the same settings.
    status = run_workers(
        settings, listener, trainer_environment(settings), processes=processes or 1, adjust=processes is None
    )
    if status != 0:
        sys.exit(status)


def _check(settings: Settings) -> None:
    """Say once, and not once a worker, what is wrong with keys or tracing."""
    if settings.api_keys is not None:
        from app.api.security import Keys

        Keys(settings.api_keys)
    if settings.tracing != "off":
        from app.api.tracing import Tracing

        Tracing()
