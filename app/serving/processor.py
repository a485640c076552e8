"""Which kind of processor this is: what was measured or compiled on one holds for its kind only."""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path

_NAMES = ("model name", "CPU part")
_FLAGS = ("flags", "Features")


@dataclass(frozen=True)
class Processor:
    """A kind of processor."""

    name: str
    """As it calls itself, for people."""
    key: str
    """Differs where the name or any of the instructions does."""


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> Processor:
    """The kind of the first core; on systems without /proc/cpuinfo only what Python knows of it."""
    facts: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").partition("\n\n")[0].splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    title = next((facts[name] for name in _NAMES if name in facts), platform.processor() or platform.machine())
    flags = next((facts[name] for name in _FLAGS if name in facts), "")
    # The name alone does not tell: virtual machines mask instructions.
    kind = (platform.machine(), title, facts.get("cpu family", ""), facts.get("model", ""), flags)
    return Processor(title, hashlib.sha256("\0".join(kind).encode()).hexdigest()[:16])
