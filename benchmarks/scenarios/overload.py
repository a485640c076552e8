"""Three times more requests than can be answered, for a minute; then half as many as can be."""

from __future__ import annotations

import http.client
import time
from collections.abc import Sequence
from typing import Any

from app.cores import available_cores
from benchmarks.figures import percentile
from benchmarks.outcomes import Phase, Window
from benchmarks.running import Running
from benchmarks.scenarios.driving import Client, Sampler, Trial, proportional_megabytes

_CALM = 0.5
_OVERLOAD = 3.0
_DEADLINE_MS = 1000
# Back to normal: nothing is rejected any more, and the slowest wait no longer than this times as before.
_NORMAL = 2.0
_NORMAL_SECONDS = 0.01


def overload(trial: Trial) -> dict[str, Any]:
    with trial.running() as subject:
        closed = trial.capacity(subject)
        capacity = closed.rate
        before, during, after = trial.seconds(10), trial.seconds(60), trial.seconds(20)
        phases = [Phase(capacity * _CALM, before), Phase(capacity * _OVERLOAD, during), Phase(capacity * _CALM, after)]
        memory_before = proportional_megabytes(subject)
        with (
            Sampler(lambda: proportional_megabytes(subject), 1.0) as memory,
            Sampler(lambda: _health_seconds(subject), 0.5) as health,
        ):
            result = Client(subject, phases, timeout_ms=_DEADLINE_MS).result()
        _, crowd, calm = result.phases
        # The client's own work takes from the cores what wrk's did not.
        cores = available_cores()
        share = result.client_cpu_seconds / (before + during + after)
        left = (cores - share) / (cores - closed.cpu_seconds / closed.seconds)
        return {
            "capacity, /s (closed loop)": capacity,
            "sent, /s": crowd.rate,
            "deadline, ms": _DEADLINE_MS,
            "good answers, /s": crowd.goodput,
            "of the capacity": crowd.goodput / capacity,
            "of the capacity beside this client": crowd.goodput / (capacity * left),
            "accepted: p50, ms": crowd.accepted.p50 * 1000,
            "accepted: p99, ms": crowd.accepted.p99 * 1000,
            "rejected, /s": crowd.rejected.count / crowd.seconds,
            "rejected: p50, ms": crowd.rejected.p50 * 1000,
            "rejected: p99, ms": crowd.rejected.p99 * 1000,
            "failed": crowd.failed,
            "statuses": ", ".join(f"{status}: {count}" for status, count in sorted(crowd.statuses.items())),
            "p99 before, ms": result.phases[0].accepted.p99 * 1000,
            "p99 after, ms": calm.accepted.p99 * 1000,
            "failed before and after": result.phases[0].failed + calm.failed,
            "recovery, s": recovery(result.windows, before, before + during),
            "health endpoint: slowest answer, ms": max(health.values, default=0.0) * 1000,
            "memory before, MB": memory_before,
            "memory at most, MB": max(memory.values, default=0.0),
            "memory after, MB": proportional_megabytes(subject),
            "cores that the client took": share,
            "requests sent late by the client, p99, ms": result.lag_p99 * 1000,
            "windows": [window.model_dump() for window in result.windows],
        }


def recovery(windows: Sequence[Window], begins: float, ends: float) -> float:
    """Seconds from the end of the overload to the time from which all is as before it; -1: it never is."""
    usual = percentile(sorted(window.p99 for window in windows if window.at < begins), 0.5)
    bound = max(usual * _NORMAL, usual + _NORMAL_SECONDS)
    afterwards = [window for window in windows if window.at >= ends]
    back = -1.0
    for window in reversed(afterwards):
        if window.rejected or window.failed or window.p99 > bound:
            break
        back = window.at - ends
    return back


def _health_seconds(subject: Running) -> float:
    """How long the liveness endpoint takes to answer; infinite if it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=10)
    started = time.perf_counter()
    try:
        connection.request("GET", "/health/live")
        good = connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        good = False
    finally:
        connection.close()
    return time.perf_counter() - started if good else float("inf")
