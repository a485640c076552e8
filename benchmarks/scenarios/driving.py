"""What the scenarios share: a server to try, its capacity, and a client that sends at a constant rate beside it."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import wrk
from benchmarks.outcomes import OpenLoopResult, Phase
from benchmarks.places import REPOSITORY
from benchmarks.running import Running, running
from benchmarks.servers import Server, Setting
from benchmarks.workloads import Workload

_CLIENTS = 32
_WARM_UP_SECONDS = 3


@dataclass(frozen=True)
class Trial:
    """What a scenario is tried on. `scale` shortens all its times, to see that it works."""

    server: Server
    workload: Workload
    scale: float = 1.0

    @contextmanager
    def running(self, environment: Mapping[str, str] | None = None) -> Iterator[Running]:
        """The server with more settings, its answers checked, warm."""
        first = self.server.settings[0]
        setting = Setting(first.name, {**first.environment, **(environment or {})})
        with running(self.server, self.workload, setting) as subject:
            subject.check()
            subject.load(_CLIENTS, _WARM_UP_SECONDS)
            yield subject

    def seconds(self, whole: float) -> float:
        return max(2.0, whole * self.scale)

    def capacity(self, subject: Running) -> wrk.Load:
        """What it answers at most, in a closed loop."""
        return subject.load(_CLIENTS, self.seconds(8))


class Client:
    """An open loop under way in a process of its own."""

    def __init__(
        self,
        subject: Running,
        phases: Sequence[Phase],
        *,
        timeout_ms: int | None = None,
        files: Sequence[Path] | None = None,
    ) -> None:
        options = [option for phase in phases for option in ("--phase", f"{phase.rate}:{phase.seconds}")]
        if timeout_ms is not None:
            options += ["--timeout-ms", str(timeout_ms)]
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.open_loop", "--port", str(subject.port), *options),
                *("--path", subject.server.path, "--media-type", subject.media_type),
                *map(str, files or subject.workload.files),
            ],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def result(self) -> OpenLoopResult:
        """Wait for its end."""
        output, said = self._process.communicate()
        if self._process.returncode != 0:
            raise RuntimeError(f"benchmarks.open_loop failed:\n{said[-1000:]}")
        return OpenLoopResult.model_validate_json(output)


@dataclass
class Sampler:
    """Calls a function again and again in a thread of its own, while the block lasts, and keeps what it returns."""

    function: Callable[[], float]
    every: float
    values: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self.every):
            self.values.append(self.function())


def proportional_megabytes(subject: Running) -> float:
    return subject.tree.memory().proportional / 1e6
