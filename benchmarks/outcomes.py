"""What became of requests that were sent at a constant rate: by phase, and by half a second.

Every request has a time at which it is due, by the rate alone. Its latency counts from then.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.figures import percentile

_WINDOW_SECONDS = 0.5
# Statuses of a server that is sound and has no room.
_REJECTED = (429, 503, 504)
_GOOD = 200
FAILED = 0


@dataclass(frozen=True)
class Phase:
    """So many requests a second for so many seconds."""

    rate: float
    seconds: float

    @property
    def count(self) -> int:
        """Requests in all."""
        return max(1, round(self.rate * self.seconds))


@dataclass(frozen=True)
class Record:
    """Of each request: when it was due and was sent, in seconds from the start; its latency; and its status.

    What was not sent, or had no answer, has zeros there.
    """

    due: array[float]
    sent: array[float]
    latency: array[float]
    status: array[int]

    @classmethod
    def of(cls, phases: Sequence[Phase]) -> Record:
        """All that will be due in the phases, one after the other, and no answer so far."""
        due = array("d", _schedule(phases))
        sent, latency = (array("d", bytes(8 * len(due))) for _ in range(2))
        return cls(due, sent, latency, array("H", bytes(2 * len(due))))


class Latencies(BaseModel):
    """Seconds from the time a request was due to the end of its answer."""

    model_config = ConfigDict(extra="forbid")

    count: int
    p50: float
    p90: float
    p99: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Latencies:
        ordered = sorted(values)
        shares = (percentile(ordered, share) for share in (0.5, 0.9, 0.99, 1.0))
        return cls(count=len(ordered), **dict(zip(("p50", "p90", "p99", "max"), shares, strict=True)))


class Window(BaseModel):
    """What became of the requests that were due in half a second from `at` on (seconds since the start)."""

    model_config = ConfigDict(extra="forbid")

    at: float
    accepted: int
    rejected: int
    failed: int
    p99: float = Field(description="Of the accepted.")


class PhaseResult(BaseModel):
    """What became of the requests of a phase."""

    model_config = ConfigDict(extra="forbid")

    rate: float
    seconds: float
    goodput: float = Field(description="Answers of status 200 a second that came while the phase lasted.")
    accepted: Latencies
    rejected: Latencies = Field(description="Of status 429, 503 or 504.")
    failed: int = Field(description="Other statuses, lost connections, and requests without any answer.")
    statuses: dict[int, int] = Field(description="By status; 0 is no answer.")


class OpenLoopResult(BaseModel):
    """A whole run."""

    model_config = ConfigDict(extra="forbid")

    phases: list[PhaseResult]
    windows: list[Window]
    client_cpu_seconds: float
    lag_p99: float = Field(
        description="Seconds by which requests were sent late, by the client's fault or for want of connections."
    )
    connections: int = Field(description="Most connections that were open at a time.")


def summarise(
    phases: Sequence[Phase], record: Record, *, client_cpu_seconds: float, connections: int
) -> OpenLoopResult:
    """Add up a whole run; what has no answer counts as failed."""
    results = []
    first, start = 0, 0.0
    came = sorted(
        due + latency
        for due, latency, status in zip(record.due, record.latency, record.status, strict=True)
        if status == _GOOD
    )
    for phase in phases:
        last, end = first + phase.count, start + phase.seconds
        good = bisect_left(came, end) - bisect_left(came, start)
        results.append(_of_phase(phase, record, range(first, last), good / phase.seconds))
        first, start = last, end
    lags = sorted(sent - due for sent, due in zip(record.sent, record.due, strict=True) if sent)
    return OpenLoopResult(
        phases=results,
        windows=_windows(record),
        client_cpu_seconds=client_cpu_seconds,
        lag_p99=percentile(lags, 0.99),
        connections=connections,
    )


def _of_phase(phase: Phase, record: Record, requests: range, goodput: float) -> PhaseResult:
    accepted = [record.latency[request] for request in requests if record.status[request] == _GOOD]
    rejected = [record.latency[request] for request in requests if record.status[request] in _REJECTED]
    return PhaseResult(
        rate=phase.rate,
        seconds=phase.seconds,
        goodput=goodput,
        accepted=Latencies.of(accepted),
        rejected=Latencies.of(rejected),
        failed=len(requests) - len(accepted) - len(rejected),
        statuses=dict(Counter(record.status[request] for request in requests)),
    )


def _windows(record: Record) -> list[Window]:
    groups: dict[int, list[int]] = {}
    for request, due in enumerate(record.due):
        groups.setdefault(int(due / _WINDOW_SECONDS), []).append(request)
    windows = []
    for number, requests in groups.items():
        accepted = sorted(record.latency[request] for request in requests if record.status[request] == _GOOD)
        rejected = sum(record.status[request] in _REJECTED for request in requests)
        windows.append(
            Window(
                at=number * _WINDOW_SECONDS,
                accepted=len(accepted),
                rejected=rejected,
                failed=len(requests) - len(accepted) - rejected,
                p99=percentile(accepted, 0.99),
            )
        )
    return windows


def _schedule(phases: Sequence[Phase]) -> list[float]:
    """When each request is due, in seconds from the start."""
    due: list[float] = []
    start = 0.0
    for phase in phases:
        due.extend(start + number / phase.rate for number in range(phase.count))
        start += phase.seconds
    return due
