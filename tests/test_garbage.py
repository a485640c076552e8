"""How the garbage collector is set while the service starts and afterwards."""

from __future__ import annotations

import subprocess
import sys


def test_the_collector_rests_during_the_start_and_then_passes_over_what_it_made() -> None:
    """Nothing is collected while paused, whatever ends that; settling frees what the start left behind."""
    code = """
import gc, weakref
from app import garbage

class Cycle:
    def __init__(self): self.self = self

with garbage.paused():
    assert not gc.isenabled()
    left = weakref.ref(Cycle())
    garbage.resume()
    assert gc.isenabled()
    gc.collect()
    assert left() is not None and gc.get_freeze_count() > 1000
garbage.settle()
assert left() is None and gc.get_freeze_count() > 1000
try:
    with garbage.paused():
        raise ValueError
except ValueError:
    assert gc.isenabled()
print("done")
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout.strip() == "done", ended.stderr
