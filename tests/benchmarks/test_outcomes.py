"""What a run at a constant rate is summed up to."""

from __future__ import annotations

import pytest

from benchmarks.outcomes import OpenLoopResult, Phase, Record, summarise

PHASES = [Phase(4, 1.0), Phase(2, 2.0)]
DUE = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5]


def _summed(answers: dict[int, tuple[float, int]], phases: list[Phase] | None = None) -> OpenLoopResult:
    """`answers`: of a request, by its number, the latency and the status; the others have none."""
    phases = PHASES if phases is None else phases
    record = Record.of(phases)
    for request, (latency, status) in answers.items():
        record.sent[request] = record.due[request] + 0.01
        record.latency[request] = latency
        record.status[request] = status
    return summarise(phases, record, client_cpu_seconds=0.5, connections=3)


def test_requests_are_due_by_the_rate_alone() -> None:
    """One phase begins when the one before ends, and each has as many requests as fit."""
    assert list(Record.of(PHASES).due) == DUE
    assert len(Record.of([Phase(0.1, 1.0)]).due) == 1


def test_goodput_is_what_came_while_the_phase_lasted() -> None:
    """An answer that came in the next phase counts there, whenever it was due."""
    result = _summed({0: (0.1, 200), 1: (0.9, 200), 2: (0.1, 200), 3: (0.1, 429), 4: (9.0, 200)})
    assert [phase.goodput for phase in result.phases] == [2.0, 0.5]
    assert [phase.accepted.count for phase in result.phases] == [3, 1]


def test_refusals_failures_and_silence_are_told_apart() -> None:
    """A server that says it has no room is sound; any other status is a failure, and so is no answer."""
    result = _summed({0: (0.1, 200), 1: (0.1, 429), 2: (0.2, 503), 3: (0.3, 500), 4: (0.4, 504)})
    first, second = result.phases
    assert (first.accepted.count, first.rejected.count, first.failed) == (1, 2, 1)
    assert (second.accepted.count, second.rejected.count, second.failed) == (0, 1, 3)
    assert second.statuses == {504: 1, 0: 3}


def test_latencies_are_of_the_accepted() -> None:
    """A fast refusal does not make a slow server look fast."""
    result = _summed({0: (0.3, 200), 1: (0.001, 429), 2: (0.5, 200)})
    assert result.phases[0].accepted.p50 == pytest.approx(0.3)
    assert result.phases[0].accepted.max == pytest.approx(0.5)
    assert result.phases[0].rejected.max == pytest.approx(0.001)


def test_windows_go_by_when_requests_were_due() -> None:
    """Half a second each."""
    result = _summed({0: (0.1, 200), 1: (0.7, 200), 2: (0.1, 429)})
    assert [window.at for window in result.windows] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert [(w.accepted, w.rejected, w.failed) for w in result.windows[:3]] == [(2, 0, 0), (0, 1, 1), (0, 0, 1)]
    assert result.windows[0].p99 == pytest.approx(0.7)


def test_the_client_says_how_late_it_was() -> None:
    """Of the requests that were sent at all."""
    result = _summed({0: (0.1, 200), 5: (0.1, 200)})
    assert result.lag_p99 == pytest.approx(0.01)
    assert (result.client_cpu_seconds, result.connections) == (0.5, 3)
