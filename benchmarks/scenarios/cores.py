"""The same server on one core, on two, and so on: what it makes of more of them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from benchmarks.scenarios.driving import Trial


def cores(trial: Trial) -> dict[str, Any]:
    if not hasattr(os, "sched_setaffinity"):
        raise RuntimeError("this system cannot bind processes to cores")
    every = sorted(os.sched_getaffinity(0))
    most = trial.server.settings[0].environment.get("FOVEA_WORKERS", "1")
    found: dict[str, Any] = {}
    first = 0.0
    for number in range(1, len(every) + 1):
        workers = most if most == "auto" else str(min(int(most), number))
        with ExitStack() as stack:
            with _confined(every[:number]):
                subject = stack.enter_context(trial.running({"FOVEA_WORKERS": workers}))
            # The client may take any core, as in all other loads: with all of them in use it has its share of them.
            used = subject.tree.cpu_seconds()
            load = trial.capacity(subject)
            used = subject.tree.cpu_seconds() - used
        first = first or load.rate
        name = f"{number} core{'s' if number > 1 else ''}"
        found[f"{name}, /s"] = load.rate
        found[f"{name}: times what one gives"] = load.rate / first
        found[f"{name}: core-ms a request"] = used / load.requests * 1000
        found[f"{name}: refused or failed"] = load.refused + load.failed
    return found


@contextmanager
def _confined(to: Collection[int]) -> Iterator[None]:
    """Have what is started in the block run on these cores only, for good."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, to)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
