"""The command `fovea`. Quick to start: what a command needs is imported when it runs, and TensorFlow never."""

from __future__ import annotations

import signal
import threading

import click

from app.commands.datasets import datasets
from app.commands.environment import Commands, load_settings
from app.commands.importing import import_
from app.commands.jobs import jobs
from app.commands.keys import keys
from app.commands.models import models
from app.commands.predict import predict
from app.commands.serve import serve
from app.commands.train import train


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="fovea", prog_name="fovea")
def main() -> None:
    """Image classification as a service you run yourself.

    Settings are environment variables that begin with FOVEA_; docs/settings.md lists them.

    Exit status: 0 done, 1 it failed, 2 wrong usage, settings or input, 3 the server cannot be reached.
    """


@main.command()
def worker() -> None:
    """Run training jobs without a server.

    Works through the jobs of the workspace until SIGTERM or Ctrl-C. For servers with
    FOVEA_EXECUTOR=none on the same workspace, which only queue. Any number may run: one works, the
    others stand by. A job at work when it stops goes on, or is resumed. With FOVEA_EXECUTOR=ray
    they run on the cluster at RAY_ADDRESS.
    """
    from app.api.logs import configure
    from app.jobs.executors.choice import make_executor
    from app.jobs.jobs import Jobs
    from app.jobs.supervisor import Supervisor

    settings = load_settings()
    configure(settings.log_format, settings.log_level)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        # Not set here: the handler interrupts this very thread, which may hold the event's lock.
        signal.signal(number, lambda *_: threading.Thread(target=stop.set).start())
    Supervisor(Jobs(settings.workspace / "jobs"), make_executor(settings)).run(stop)


models.add_command(import_)
for command in (serve, predict, train, jobs, models, datasets, keys):
    main.add_command(command)

if __name__ == "__main__":
    main()
