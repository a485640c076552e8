"""How NumPy is imported where requests are answered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.parametrize("asked", [None, "2"])
def test_numpy_starts_no_threads_that_nothing_uses(asked: str | None) -> None:
    """There is one thread after the import, unless the environment asks for more, and what it asks for stays."""
    code = (
        "import os; from app.numpy_import import import_numpy\n"
        "import_numpy()\n"
        "print(len(os.listdir('/proc/self/task')), os.environ.get('OPENBLAS_NUM_THREADS'))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if asked is not None:
        environment["OPENBLAS_NUM_THREADS"] = asked
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    threads, kept = ended.stdout.split()
    assert kept == str(asked)
    # More than there are cores are never started.
    assert int(threads) == min(int(asked or 1), os.cpu_count() or 1)
