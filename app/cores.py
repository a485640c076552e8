"""How many cores this process may use."""

from __future__ import annotations

import os
from pathlib import Path


def available_cores(cgroup: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that the scheduler allows, at most as many as the container's CPU quota (cgroup v2), at least one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text(encoding="ascii").split()
        cores = min(cores, round(int(quota) / int(period)))
    except (OSError, ValueError):  # no cgroup, or a quota of "max"
        pass
    return max(cores, 1)
