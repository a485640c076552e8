"""Which executor the settings ask for. What it needs is imported when it is chosen."""

from __future__ import annotations

import sys

from app.jobs.executors.base import Executor
from app.settings import Settings


def make_executor(settings: Settings, module: str = "app.training") -> Executor:
    """The executor of `FOVEA_EXECUTOR`; that of this machine for `none`, since whoever asks here wants jobs run.

    Args:
        settings: also what the trainers get.
        module: the program that is run with a job's folder as its argument.

    Raises:
        ConfigurationError: Ray is asked for, and its address is missing or wrong.
    """
    from app.jobs.executors.local_process import LocalProcess, trainer_environment

    environment = trainer_environment(settings)
    if settings.executor != "ray":
        return LocalProcess(environment, command=(sys.executable, "-m", module))
    settings.check_executor()
    assert settings.ray_address is not None  # or the check had raised
    from app.jobs.executors.ray_job import RayJob

    return RayJob(
        settings.ray_address, environment, command=("python", "-m", module), cpus=settings.training_threads or 1
    )
