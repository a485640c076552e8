"""300 clients begin a request and never end it: the others do not notice."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from benchmarks.outcomes import Phase
from benchmarks.scenarios.driving import Client, Trial, proportional_megabytes

_SOCKETS = 300
_SHARE = 0.7
_BEGUN = (
    b"POST /api/v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/jpeg\r\nContent-Length: 1000000\r\n\r\n"
    b"\xff\xd8\xff\xe0 and no more"
)


def stalled(trial: Trial) -> dict[str, Any]:
    with trial.running() as subject, ExitStack() as sockets:
        alone = trial.capacity(subject).rate
        seconds = trial.seconds(10)
        phases = [Phase(alone * _SHARE, seconds)]
        before = Client(subject, phases).result().phases[0]
        memory = proportional_megabytes(subject)
        for _ in range(_SOCKETS):
            connection = sockets.enter_context(socket.create_connection(("127.0.0.1", subject.port), timeout=10))
            connection.sendall(_BEGUN)
        during = Client(subject, phases).result().phases[0]
        beside = trial.capacity(subject).rate
        return {
            "stalled sockets": _SOCKETS,
            "sent, /s": alone * _SHARE,
            "p99 before, ms": before.accepted.p99 * 1000,
            "p99 beside them, ms": during.accepted.p99 * 1000,
            "failed or rejected": before.failed + before.rejected.count + during.failed + during.rejected.count,
            "capacity before, /s": alone,
            "capacity beside them, /s": beside,
            "memory before, MB": memory,
            "memory beside them, MB": proportional_megabytes(subject),
        }
