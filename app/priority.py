"""The priority of processes that work beside the server."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LOWEST_NICE = 19

OOM_SCORE = 600
"""Where memory runs out the kernel ends this process, and not the server. From -1000 to 1000."""


def yield_to_others() -> None:
    """Let this process have only what nobody else wants."""
    with suppress(OSError, AttributeError):  # not on every system
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
