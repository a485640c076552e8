"""Which executor the settings ask for. What it needs is imported when it is chosen."""

from __future__ import annotations

import sys
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


def make_trial_launcher(settings: Settings, *, threads: int, module: str = "app.training.trial") -> Executor:
    """What launches the trials of a search, from within its trainer: on Ray where that is what runs jobs, else here.

    Args:
        settings: also what the trials get.
        threads: of a trial on this machine. On Ray a trial has the resources that its spec asks for.
        module: the program that is run with a trial's folder, which is a `JobFolder`, as its argument.

    Raises:
        ConfigurationError: as `make_executor`.
    """
    if settings.executor == "ray":
        from app.jobs.executors.patient import Patient

        return Patient(_ray(settings, module))
    from app.jobs.executors.local_process import LocalProcess, trainer_environment

    # What this process has as its priority the trials inherit.
    return LocalProcess(
        trainer_environment(settings) | {"FOVEA_TRAINING_THREADS": str(threads)},
        command=(sys.executable, "-m", module),
        lowest_priority=False,
    )


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
