"""Where the benchmarks keep what they build: `.bench/` of the repository, which Git ignores."""

from __future__ import annotations

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
HOME = REPOSITORY / ".bench"
LOGS = HOME / "logs"
ENVIRONMENTS = HOME / "venvs"
