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


def run_workers(settings: Settings, listener: socket.socket, environment: Mapping[str, str]) -> int:
    """Run `settings.workers` processes of `python -m app.main`, which accept from `listener`, until told to stop.

    Args:
        settings: how many, and the grace they get.
        listener: the listening socket, which all inherit.
        environment: settings for the workers, as variables.

    Returns:
        The exit status: 0 if all ended in good order.
    """
    stop = _Stop()
    # Workers hold the reading end: it closes when this process is gone, even by kill -9.
    reading, writing = os.pipe()
    with tempfile.TemporaryDirectory(prefix="fovea-workers-") as folder:
        metrics = Path(folder, "metrics")
        metrics.mkdir()
        crew = Crew(Path(folder), size=settings.workers)
        crew.prepare()

        def launch(number: int, *, loads_first: bool) -> subprocess.Popen[bytes]:
            worker = Worker(replace(crew, number=number, loads_first=loads_first), listener.fileno(), reading)
            return subprocess.Popen(
                [sys.executable, "-m", "app.main", *worker.arguments()],
                env={**os.environ, **environment, "PROMETHEUS_MULTIPROC_DIR": str(metrics)},
                pass_fds=(listener.fileno(), reading),
            )

        workers = {number: launch(number, loads_first=number > 0) for number in range(settings.workers)}
        while not stop.asked:
            time.sleep(_POLL_SECONDS)
            if not crew.complete and crew.all_loaded:
                crew.report_complete()
            for number, worker in workers.items():
                if worker.poll() is not None and not stop.asked:
                    logger.error("Worker %d (process %d) ended with %d.", number, worker.pid, worker.returncode)
                    if crew.occupancy is not None:
                        crew.occupancy.leave(number)
                    time.sleep(_RESTART_SECONDS)
                    workers[number] = launch(number, loads_first=True)
        listener.close()
        status = _end(list(workers.values()), settings.shutdown_grace + _LAST_RESORT_SECONDS)
    os.close(reading)
    os.close(writing)
    return status


def _end(workers: list[subprocess.Popen[bytes]], seconds: float) -> int:
    for worker in workers:
        if worker.poll() is None:
            worker.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + seconds
    for worker in workers:
        try:
            worker.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
    # One that was still starting knew no better than to die of the signal.
    return 0 if all(worker.returncode in (0, -signal.SIGTERM) for worker in workers) else 1


class _Stop:
    """Set by SIGTERM and SIGINT."""

    def __init__(self) -> None:
        self.asked = False
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
