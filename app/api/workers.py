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
from typing import Protocol

from app.api.crew import Crew
from app.cores import available_cores
from app.serving.sizing import Sizing, Suitable
from app.settings import Settings

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.05
# A worker that dies at once would otherwise be started hundreds of times a second.
_RESTART_SECONDS = 1.0
# So often workers that are to take the place of others may die before they are given up.
_MOST_DEATHS = 3
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
        """For the command line of `python -m app.worker`."""
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
    """Run processes of `python -m app.worker`, which accept from `listener`, until told to stop.

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

        teams = _Teams(start, processes, grace, adjust=adjust)
        while not stop.asked:
            time.sleep(_POLL_SECONDS)
            suitable = teams.step()
            if suitable is not None and settings.workers == "auto":
                Sizing(settings.cache_folder, available_cores()).settle(teams.size, suitable)
        listener.close()
        in_order = teams.end()
    os.close(reading)
    os.close(writing)
    return 0 if in_order else 1


class _Start(Protocol):
    def __call__(self, name: str, size: int, *, answers: bool) -> _Team: ...


class _Teams:
    """The team that serves, and for a while at the start the one that is to take its place."""

    def __init__(self, start: _Start, processes: int, grace: float, *, adjust: bool) -> None:
        """Start the first. For the arguments see `run_workers`; `grace`: seconds that a team gets to end."""
        self._start = start
        self._grace = grace
        self._adjust = adjust
        self._team = start("first", processes, answers=True)
        self._successor: _Team | None = None
        self._leaving: _Team | None = None
        self._suitable: Suitable | None = None

    @property
    def size(self) -> int:
        """How many processes serve."""
        return self._team.crew.size

    def step(self) -> Suitable | None:
        """Do what there is to do now; never waits.

        Returns:
            How many processes suit, once: at the step that made the service complete.
        """
        for team in filter(None, (self._team, self._successor)):
            team.replace_dead()
        if self._team.crew.complete:
            return None
        if self._leaving is not None:
            if not self._leaving.ended:
                return None
            self._leaving = None
        elif self._successor is not None:
            if self._successor.deaths >= _MOST_DEATHS:
                logger.error(
                    "%d workers, which would suit the models, do not get to serve: they died %d times. The service "
                    "goes on with %d; the next start tries again.",
                    self._successor.crew.size,
                    self._successor.deaths,
                    self.size,
                )
                self._leaving, self._successor = self._successor, None
                self._leaving.ask_to_end(self._grace)
            elif self._successor.crew.all_loaded:
                self._leaving, self._team, self._successor = self._team, self._successor, None
                self._leaving.ask_to_end(self._grace)
            return None
        elif not self._team.crew.all_loaded:
            return None
        if self._suitable is None:
            self._suitable = self._team.crew.suitable
            if self._adjust and self._suitable.workers != self.size:
                self._successor = self._start("second", self._suitable.workers, answers=False)
                return None
        self._team.crew.report_complete()
        return self._suitable

    def end(self) -> bool:
        """End all, and wait for it. Whether all ended in good order."""
        teams = [team for team in (self._team, self._successor, self._leaving) if team is not None]
        for team in teams:
            team.ask_to_end(self._grace)
        while not all(team.ended for team in teams):
            time.sleep(_POLL_SECONDS)
        return all(team.in_order for team in teams)


class _Team:
    """Worker processes that run together."""

    def __init__(
        self, crew: Crew, listener: int, parent_pipe: int, environment: Mapping[str, str], *, answers: bool
    ) -> None:
        """Start them. `answers`: the first answers probes while it loads."""
        self.crew = crew
        self.deaths = 0
        """How many have ended without being asked to."""
        self._listener = listener
        self._parent_pipe = parent_pipe
        self._environment = dict(environment)
        self._deadline: float | None = None
        self._restarts: dict[int, float] = {}  # of those that died: when another takes its place
        crew.prepare()
        self._workers = {
            number: self._launch(number, loads_first=number > 0 or not answers) for number in range(crew.size)
        }

    def replace_dead(self) -> None:
        """Start another for each that has ended a moment ago, which loads before it accepts."""
        now = time.monotonic()
        for number, worker in self._workers.items():
            if worker.poll() is None:
                continue
            if number not in self._restarts:
                logger.error("Worker %d (process %d) ended with %d.", number, worker.pid, worker.returncode)
                if self.crew.occupancy is not None:
                    self.crew.occupancy.leave(number)
                self.deaths += 1
                self._restarts[number] = now + _RESTART_SECONDS
            elif now >= self._restarts[number]:
                del self._restarts[number]
                self._workers[number] = self._launch(number, loads_first=True)

    def ask_to_end(self, seconds: float) -> None:
        """Send them SIGTERM. Those that have not ended after so many seconds are killed, at a look at `ended`."""
        if self._deadline is not None:
            return
        self._deadline = time.monotonic() + seconds
        for worker in self._workers.values():
            if worker.poll() is None:
                worker.send_signal(signal.SIGTERM)

    @property
    def ended(self) -> bool:
        """Whether all have ended, of those that were asked to."""
        alive = [worker for worker in self._workers.values() if worker.poll() is None]
        if self._deadline is not None and time.monotonic() > self._deadline:
            for worker in alive:
                worker.kill()
        return not alive

    @property
    def in_order(self) -> bool:
        """Whether all that were asked to end did so by themselves."""
        asked = [worker for number, worker in self._workers.items() if number not in self._restarts]
        # One that was still starting knew no better than to die of the signal.
        return all(worker.returncode in (0, -signal.SIGTERM) for worker in asked)

    def _launch(self, number: int, *, loads_first: bool) -> subprocess.Popen[bytes]:
        crew = replace(self.crew, number=number, loads_first=loads_first)
        worker = Worker(crew, self._listener, self._parent_pipe)
        return subprocess.Popen(
            [sys.executable, "-m", "app.worker", *worker.arguments()],
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
