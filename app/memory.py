"""How much memory this process may use, and how much it did."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def memory_limit(cgroups: Path = _CGROUPS, own: Path = _OWN) -> int:
    """Bytes that this process may use: what its control group allows (v1 or v2), at most what the machine has."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [machine]
    for file in _limit_files(cgroups, own):
        try:
            limits.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such group, or a limit of "max"
            continue
    return min(limits)


def peak_memory() -> int:
    """The most bytes that this process has held at a time."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _limit_files(cgroups: Path, own: Path) -> list[Path]:
    """Where the limit stands. In a container the group is the root of what can be seen; outside it has a path."""
    files = [cgroups / "memory.max", cgroups / "memory" / "memory.limit_in_bytes"]
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return files
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            files.append(cgroups / path.lstrip("/") / "memory.max")
        elif "memory" in controllers.split(","):
            files.append(cgroups / "memory" / path.lstrip("/") / "memory.limit_in_bytes")
    return files
