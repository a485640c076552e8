"""The run: settings first, then rounds in which every server has its turn, one at a time on a machine left alone.

Rounds are interleaved, so that what else happens to the machine meets all servers alike, and each round begins with
another server.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http.client import HTTPException

from benchmarks import limits, wrk
from benchmarks.results import Choice, LoadSample, PartsSample, Results, Sample
from benchmarks.running import NotStarted, Running, WrongAnswers, running
from benchmarks.servers import Server, Setting
from benchmarks.workloads import Workload

ONE, MANY_CLIENTS, MANY_IMAGES = "c=1", "c=32", "32 images a request"
_CLIENTS = 32
# Enough to keep the server busy while an answer is on its way.
_MANY_IMAGES_CLIENTS = 4
_WARM_UP_SECONDS = 2
_TRY_SECONDS = 4
# Of each server, with those of the rounds.
_STARTS = 5
# What one server, or one part, may fail with; the others go on. RuntimeError: of wrk, or of what times the engines;
# the last two: of a server that dies while it is asked.
_FAILURES = (NotStarted, WrongAnswers, RuntimeError, OSError, HTTPException)


class Progress:
    """Lines on the terminal, with the time that is left by the pace so far."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._done = 0
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        print(f"{'':16}{text}", file=sys.stderr, flush=True)

    def step(self, text: str) -> None:
        """Say what was done, and that it was one of the steps."""
        self._done += 1
        passed = time.monotonic() - self._began
        left = passed / self._done * (self._steps - self._done)
        place = f"{self._done}/{self._steps}"
        print(f"{place:>7} {_clock(left):>7} left  {text}", file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Plan:
    """What is run."""

    workloads: Sequence[Workload]
    servers: Sequence[Server]
    rounds: int
    seconds: float

    def run(self, results: Results, save: Callable[[Results], None]) -> None:
        """Fill `results`, calling `save` after each round. A server that fails is skipped from then on."""
        pairs = [(workload, server) for workload in self.workloads for server in self.servers]
        tried = [pair for pair in pairs if len(pair[1].settings) > 1]
        progress = Progress(len(tried) + self.rounds * (len(pairs) + len(self.workloads)))
        chosen: dict[tuple[str, str], Setting] = {}
        for workload, server in pairs:
            key = (workload.name, server.name)
            if len(server.settings) == 1:
                chosen[key] = server.settings[0]
                continue
            try:
                choice = _choose(server, workload)
            except _FAILURES as error:
                results.skipped[f"{server.name} on {workload.name}"] = _short(error)
                progress.step(f"{workload.name}  {server.name}: left out. {_short(error)}")
                continue
            results.choices.append(choice)
            chosen[key] = next(setting for setting in server.settings if setting.name == choice.chosen)
            progress.step(f"{workload.name}  {server.name}: {choice.chosen}")
        for number in range(1, self.rounds + 1):
            for workload in self.workloads:
                try:
                    parts = limits.measure(workload, self.seconds)
                except _FAILURES as error:
                    results.skipped[f"limits on {workload.name}, round {number}"] = _short(error)
                    progress.step(f"{workload.name}  limits: left out. {_short(error)}")
                    continue
                results.parts.append(PartsSample(round=number, workload=workload.name, **asdict(parts)))
                progress.step(f"{workload.name}  limits")
            first = (number - 1) * len(pairs) // self.rounds
            for workload, server in pairs[first:] + pairs[:first]:
                key = (workload.name, server.name)
                if key not in chosen:
                    progress.step(f"{workload.name}  {server.name}: left out")
                    continue
                try:
                    sample = self._measure(number, workload, server, chosen[key])
                except _FAILURES as error:
                    del chosen[key]
                    results.skipped[f"{server.name} on {workload.name}"] = _short(error)
                    progress.step(f"{workload.name}  {server.name}: left out. {_short(error)}")
                    continue
                results.samples.append(sample)
                rates = ", ".join(f"{kind}: {load.rate:,.0f}/s" for kind, load in sample.loads.items())
                progress.step(f"{workload.name}  {server.name}: {rates}")
            save(results)
        for workload, server in pairs:
            name = f"{workload.name} {server.name}"
            more = range(_STARTS - self.rounds if (workload.name, server.name) in chosen and self.rounds > 1 else 0)
            starts: list[float] = []
            try:
                for _ in more:
                    seconds = _start(server, workload, chosen[workload.name, server.name])
                    starts.append(seconds)
            except _FAILURES as error:
                results.skipped[f"further starts of {server.name} on {workload.name}"] = _short(error)
                progress.say(f"{name}: no further starts. {_short(error)}")
            if starts:
                results.starts[name] = starts
                progress.say(f"{name}: first answers after {', '.join(f'{seconds:.2f}' for seconds in starts)} s")
        save(results)

    def _measure(self, number: int, workload: Workload, server: Server, setting: Setting) -> Sample:
        with running(server, workload, setting) as subject:
            subject.check()
            engine = subject.engine()
            # All workers get their share, and those that were still starting are up.
            subject.load(_CLIENTS, _WARM_UP_SECONDS)
            loads = {
                ONE: _sample(subject, lambda: subject.load(1, self.seconds)),
                MANY_CLIENTS: _sample(subject, lambda: subject.load(_CLIENTS, self.seconds)),
            }
            if server.many_path is not None:
                loads[MANY_IMAGES] = _sample(subject, lambda: subject.load_many(_MANY_IMAGES_CLIENTS, self.seconds))
            memory = subject.tree.memory()
            return Sample(
                round=number,
                workload=workload.name,
                server=server.name,
                engine=engine,
                cold_start=subject.cold_start,
                **asdict(memory),
                loads=loads,
            )


def _start(server: Server, workload: Workload, setting: Setting) -> float:
    """Seconds to the first answer."""
    with running(server, workload, setting) as subject:
        return subject.cold_start


def _choose(server: Server, workload: Workload) -> Choice:
    """Try each setting for a few seconds; those that do not work are worth nothing.

    Raises:
        Exception: one of `_FAILURES`; what became of the last one, if none worked.
    """
    rates: dict[str, float] = {}
    failure: Exception | None = None
    for setting in server.settings:
        try:
            with running(server, workload, setting) as subject:
                subject.check()
                subject.load(_CLIENTS, _WARM_UP_SECONDS)
                rates[setting.name] = subject.load(_CLIENTS, _TRY_SECONDS).rate
        except _FAILURES as error:
            failure = error
    if failure is not None and not rates:
        raise failure
    best = max(rates, key=lambda name: rates[name])
    return Choice(workload=workload.name, server=server.name, chosen=best, tried=rates)


def _sample(subject: Running, load: Callable[[], wrk.Load]) -> LoadSample:
    before = subject.tree.cpu_seconds()
    found = load()
    return LoadSample(
        rate=found.rate,
        p50=found.p50,
        p99=found.p99,
        refused=found.refused,
        failed=found.failed,
        requests=found.requests,
        seconds=found.seconds,
        server_cpu=subject.tree.cpu_seconds() - before,
        client_cpu=found.cpu_seconds,
    )


def _short(error: Exception) -> str:
    """The last line of what a server said; its log has the rest."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02}"
