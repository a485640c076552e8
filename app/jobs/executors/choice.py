"""Which executor the settings ask for. What it needs is imported when it is chosen."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from app.jobs.executors.base import Executor
from app.settings import Settings

if TYPE_CHECKING:
    from app.jobs.executors.ray_job import RayJob


def make_executor(settings: Settings) -> Executor:
    """The executor of `FOVEA_EXECUTOR`; that of this machine for `none`, since whoever asks here wants jobs run.

    Args:
        settings: also what the trainers get.

    Raises:
        ConfigurationError: Ray is asked for, and its address is missing or wrong.
    """
    if settings.executor == "ray":
        return _ray(settings, "app.training")
    from app.jobs.executors.local_process import LocalProcess, trainer_environment

    return LocalProcess(trainer_environment(settings))


def make_trial_launcher(
    settings: Settings,
    *,
    threads: int,
    parallel: int,
    tell: Callable[[str], None],
    module: str = "app.training.trial",
) -> Executor:
    """What launches the trials of a search, from within its trainer.

    Where Ray runs jobs one trial at a time has the place of the trainer, which is idle, and the others ask Ray for
    places of their own. Without Ray all share the place of the trainer.

    Args:
        settings: also what the trials get.
        threads: of the trainer. On Ray a trial has the resources that its spec asks for, which are the trainer's too.
        parallel: trials at a time.
        tell: takes a line about a Ray that takes no trials now.
        module: the program that is run with a trial's folder, which is a `JobFolder`, as its argument.

    Raises:
        ConfigurationError: as `make_executor`.
    """
    from app.jobs.executors.local_process import LocalProcess, trainer_environment

    on_ray = settings.executor == "ray"
    own_threads = threads if on_ray else max(1, threads // parallel)
    # What this process has as its priority the trials inherit.
    here = LocalProcess(
        trainer_environment(settings) | {"FOVEA_TRAINING_THREADS": str(own_threads)},
        command=(sys.executable, "-m", module),
        lowest_priority=False,
    )
    if not on_ray:
        return here
    from app.jobs.executors.own_place import OwnPlaceFirst
    from app.jobs.executors.patient import Patient

    return OwnPlaceFirst(here, Patient(_ray(settings, module), tell))


def _ray(settings: Settings, module: str) -> RayJob:
    settings.check_executor()
    assert settings.ray_address is not None  # or the check had raised
    from app.jobs.executors.local_process import trainer_environment
    from app.jobs.executors.ray_job import RayJob

    return RayJob(
        settings.ray_address,
        trainer_environment(settings),
        command=("python", "-m", module),
        cpus=settings.training_threads or 1,
    )
