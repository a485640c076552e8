"""A run of an hour ends with what could be measured, whatever failed."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import limits, machine, plan
from benchmarks.plan import Plan
from benchmarks.results import Results
from benchmarks.running import NotStarted
from benchmarks.servers import SERVERS
from benchmarks.workloads import WORKLOADS


def refuse(error: Exception) -> Callable[..., Any]:
    def call(*_: object) -> Any:
        raise error

    return call


def test_what_fails_is_named_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that cannot be measured, and a server that starts in the rounds but not in the end."""
    workload, server = next(iter(WORKLOADS.values())), SERVERS["fovea-2-f32"]
    monkeypatch.setattr(limits, "measure", refuse(RuntimeError("the engines failed:\nno memory")))
    monkeypatch.setattr(plan, "running", refuse(NotStarted("it ended: address in use")))
    monkeypatch.setattr(Plan, "_measure", lambda *_: SimpleNamespace(loads={}))
    results = Results(machine=machine.describe(), began=datetime.now(UTC), rounds=2, seconds=1)
    saved: list[Results] = []
    Plan([workload], [server], rounds=2, seconds=1).run(results, saved.append)
    assert len(saved) == 3
    assert len(results.samples) == 2
    assert results.skipped == {
        f"limits on {workload.name}, round 1": "no memory",
        f"limits on {workload.name}, round 2": "no memory",
        f"further starts of {server.name} on {workload.name}": "it ended: address in use",
    }
