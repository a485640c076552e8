"""Several serving processes that share one port: started, restarted when they die, and ended together."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType

from app.api.crew import Crew
from app.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
# A worker that dies at once would otherwise be started hundreds of times a second.
_RESTART_SECONDS = 1.0
_LAST_RESORT_SECONDS = 10


@dataclass(frozen=True)
class Worker:
    """What a worker process is told by its parent."""

    crew: Crew
    listener: int
    """File descriptor of the listening socket."""
    parent_pipe: int
    """One that ends when the parent is gone."""

    def arguments(self) -> list[str]:
        """For the command line of `python -m app.main`."""
        crew = self.crew
        return [
            json.dumps([str(crew.folder), crew.number, crew.size, crew.loads_first, self.listener, self.parent_pipe])
        ]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Worker:
        """The reverse of `arguments`."""
        folder, number, size, loads_first, listener, parent_pipe = json.loads(arguments[0])
        return cls(Crew(Path(folder), number, size, loads_first), listener, parent_pipe)


def run_workers(
    settings: Settings,
    listener: socket.socket,
    environment: Mapping[str, str],
    *,
    processes: int,
    adjust: bool = False,
) -> int:
    """Run processes of `python -m app.main`, which accept from `listener`, until told to stop.

    Args:
        settings: of the service.
        listener: the listening socket, which all inherit.
        environment: settings for the workers, as variables.
        processes: how many to begin with.
        adjust: go over to as many as the first says suit its models. They load beside it and then take its place:
            each gets its part of the cores from its start.

    Returns:
        The exit status: 0 if all ended in good order.
    """
    stop = _Stop()
    # Workers hold the reading end: it closes when this process is gone, even by kill -9.
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="fovea-workers-") as folder:
        (Path(folder) / "metrics").mkdir()
        surroundings = {**os.environ, **environment, "PROMETHEUS_MULTIPROC_DIR": str(Path(folder) / "metrics")}
        grace = settings.shutdown_grace + _LAST_RESORT_SECONDS

        def start(name: str, size: int, *, answers: bool) -> _Team:
            crew = Crew(Path(folder) / name, size=size)
            return _Team(crew, listener.fileno(), reading, surroundings, answers=answers)

        team = start("first", processes, answers=True)
        successor: _Team | None = None
        while not stop.asked:
            time.sleep(_POLL_SECONDS)
            for each in filter(None, (team, successor)):
                each.replace_dead(stop)
            if team.crew.complete or stop.asked:
                continue
            if successor is not None:
                if successor.crew.all_loaded:
                    team.end(grace)
                    team, successor = successor, None
                    team.crew.report_complete()
            elif team.crew.all_loaded:
                if adjust and team.crew.suitable != processes:
                    successor = start("second", team.crew.suitable, answers=False)
                else:
                    team.crew.report_complete()
        listener.close()
        ended = [each.end(grace) for each in (team, successor) if each is not None]
    os.close(reading)
    os.close(writing)
    return 0 if all(ended) else 1


class _Team:
    """Worker processes that run together."""

    def __init__(
        self, crew: Crew, listener: int, parent_pipe: int, environment: Mapping[str, str], *, answers: bool
    ) -> None:
        """Start them. `answers`: the first answers probes while it loads."""
        self.crew = crew
        self._listener = listener
        self._parent_pipe = parent_pipe
        self._environment = dict(environment)
        crew.prepare()
        self._workers = {
            number: self._launch(number, loads_first=number > 0 or not answers) for number in range(crew.size)
        }

    def replace_dead(self, stop: _Stop) -> None:
        """Start another for each that has ended, which loads before it accepts."""
        for number, worker in self._workers.items():
            if worker.poll() is not None and not stop.asked:
                logger.error("Worker %d (process %d) ended with %d.", number, worker.pid, worker.returncode)
                if self.crew.occupancy is not None:
                    self.crew.occupancy.leave(number)
                time.sleep(_RESTART_SECONDS)
                self._workers[number] = self._launch(number, loads_first=True)

    def end(self, seconds: float) -> bool:
        """End them: by SIGTERM, and by SIGKILL after so many seconds. Whether all ended in good order."""
        for worker in self._workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for worker in self._workers.values():
            try:
                worker.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()
        # One that was still starting knew no better than to die of the signal.
        return all(worker.returncode in (0, -signal.SIGTERM) for worker in self._workers.values())

    def _launch(self, number: int, *, loads_first: bool) -> subprocess.Popen[bytes]:
        crew = replace(self.crew, number=number, loads_first=loads_first)
        worker = Worker(crew, self._listener, self._parent_pipe)
        return subprocess.Popen(
            [sys.executable, "-m", "app.main", *worker.arguments()],
            env=self._environment,
            pass_fds=(self._listener, self._parent_pipe),
        )


class _Stop:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
