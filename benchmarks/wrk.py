"""Closed loop: wrk keeps so many requests under way at a time, and shows how many a second a server can answer.

Its latencies say how long an answer takes at that many at a time, not how long a user waits who comes when he comes:
for that there is `open_loop`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_suffix(".lua")
_TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class Load:
    """What wrk saw. Times are in seconds; `refused` are answers that were not 2xx or 3xx."""

    requests: int
    seconds: float
    p50: float
    p90: float
    p99: float
    max: float
    refused: int
    failed: int
    cpu_seconds: float
    """Processor time of wrk itself, which runs on the same cores."""

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return max(0, self.requests - self.refused) / self.seconds


def require() -> str:
    """Path of wrk; ends the program with what to do if there is none."""
    path = shutil.which("wrk")
    if path is None:
        raise SystemExit("The benchmarks need wrk. On Debian and Ubuntu: apt-get install wrk")
    return path


def load(
    url: str,
    media_type: str,
    bodies: Sequence[Path],
    *,
    connections: int,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> Load:
    """Post the bodies in rotation for so long."""
    command = [
        *(require(), "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"),
        *("--timeout", f"{_TIMEOUT_SECONDS}s", "--script", str(_SCRIPT)),
        *(option for name, value in (headers or {}).items() for option in ("--header", f"{name}: {value}")),
        *(url, "--", media_type, *map(str, bodies)),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdout is not None
    output = process.stdout.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise RuntimeError(f"wrk failed:\n{output[-1000:]}")
    found = json.loads(output.strip().splitlines()[-1])
    return Load(**found, cpu_seconds=usage.ru_utime + usage.ru_stime)
