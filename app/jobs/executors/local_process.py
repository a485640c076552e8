"""Trainers as processes of this machine: one at a time, behind everything else that runs on it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from app.errors import TrainingFailed
from app.jobs.executors.base import Exit
from app.jobs.folder import JobFolder
from app.priority import LOWEST_NICE, OOM_SCORE
from app.settings import Settings


class _Trainer(subprocess.Popen[bytes]):
    """A child that is meant to outlive this process: no warning when it is dropped while it runs."""

    def __del__(self, **_: object) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            super().__del__()


class LocalProcess:
    """Runs `python -m app.training JOB_FOLDER` in a session of its own, so that it outlives the server, even `kill -9`.

    After a restart nothing needs to be remembered: the job's lock says whether a trainer
    lives, and the lock's content which process it is.
    """

    capacity = 1

    def __init__(
        self,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = (sys.executable, "-m", "app.training"),
        lowest_priority: bool = True,
    ) -> None:
        """Launch nothing yet.

        Args:
            environment: variables for the trainer on top of this process's own; see `trainer_environment`.
            command: what to run; the job's folder is added as the last argument.
            lowest_priority: let the trainer have only what nobody else wants of processor and disk.
        """
        self._environment = dict(environment)
        self._command = list(command)
        self._lowest_priority = lowest_priority
        self._launched: dict[str, _Trainer] = {}
        self._exits: dict[str, Exit] = {}

    def launch(self, job: JobFolder) -> None:
        """Start a trainer on `job`, its output going to the end of the job's `log.txt`."""
        path = job.path.resolve()
        try:
            with (path / "log.txt").open("ab") as log:
                process = _Trainer(
                    [*self._command, str(path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **self._environment},
                    start_new_session=True,
                )
        except OSError as error:
            raise TrainingFailed(f"The trainer could not be started: {error.strerror or error}.") from error
        if self._lowest_priority:
            _lower_priority(process.pid)
        self._launched[job.id] = process

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer is starting or at work on `job`, whoever launched it."""
        process = self._launched.get(job.id)
        if process is not None:
            if process.poll() is None:
                return True
            del self._launched[job.id]
            # What it forked shares its lock; the job is not free before the last of them is gone.
            _signal_group(process.pid, signal.SIGKILL)
            self._exits[job.id] = Exit.of_status(process.returncode)
        return job.alive

    def collect(self, job: JobFolder) -> Exit | None:
        """How the trainer that this executor launched on `job` ended; told once."""
        return self._exits.pop(job.id, None)

    def end(self, job: JobFolder, *, force: bool) -> None:
        """SIGTERM, or SIGKILL, to the trainer's process group."""
        number = signal.SIGKILL if force else signal.SIGTERM
        process = self._launched.get(job.id)
        if process is not None and process.poll() is None:
            _signal_group(process.pid, number)
            return
        holder = job.holder
        # The number in the lock may be stale and belong to another process by now: be sure of it before it is killed.
        if holder is not None and job.alive and str(job.path.resolve()) in _arguments(holder):
            _signal_group(holder, number)


def trainer_environment(settings: Settings) -> dict[str, str]:
    """The settings of this process as variables for a trainer, whatever they were set by; paths made absolute."""
    chosen = {name: value for name in settings.model_fields_set if (value := getattr(settings, name)) is not None}
    chosen |= {"model_store": settings.model_store, "workspace": settings.workspace}
    return {
        f"FOVEA_{name.upper()}": str(value.resolve() if isinstance(value, Path) else value)
        for name, value in sorted(chosen.items())
    }


def _signal_group(leader: int, number: signal.Signals) -> None:
    """Send to the process group that `leader` leads; never to a group that it merely belongs to."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, number)


def _arguments(pid: int) -> list[str]:
    """The command line of a process; empty if there is no such process."""
    proc = Path("/proc")
    if (proc / "self" / "cmdline").exists():
        try:
            return (proc / str(pid) / "cmdline").read_bytes().decode("utf-8", errors="replace").split("\0")
        except OSError:
            return []
    listed = subprocess.run(["ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return listed.stdout.split()


def _lower_priority(pid: int) -> None:
    """Below everything else; the threads that the process starts inherit it. Each step is worth having alone."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, LOWEST_NICE)
    if sys.platform == "linux":
        with suppress(OSError):
            # Runs when no other process wants the processor; the kernel ranks its disk access likewise.
            os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))
        with suppress(OSError):
            # On desktops each session gets an equal share, and nice counts within the session only.
            Path(f"/proc/{pid}/autogroup").write_text(str(LOWEST_NICE))
        with suppress(OSError):
            # A trainer resumes where memory ran out; the server would not.
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))
