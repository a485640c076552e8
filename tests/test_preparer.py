"""The process that prepares versions takes nothing from those who are answered, and outlives nobody."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.serving.preparation import COMMAND


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def asleep(proc: Path) -> bool:
    time.sleep(0.005)
    return (proc / "stat").read_text().rpartition(")")[2].split()[0] == "S"


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_it_has_only_what_nobody_else_wants() -> None:
    """The lowest priority, before it imports what takes long, and no threads that it has no use for; and where memory
    runs out, it is ended before the server is.
    """
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        proc = Path(f"/proc/{process.pid}")
        try:
            eventually(lambda: "_multiarray_umath" in (proc / "maps").read_text())
            assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
            assert (proc / "oom_score_adj").read_text() == "600\n"
            eventually(lambda: "pydantic_core" in (proc / "maps").read_text())
            eventually(lambda: all(asleep(proc) for _ in range(10)))  # it waits for its task
            assert len([*(proc / "task").iterdir()]) == 1
        finally:
            process.kill()


def test_it_ends_when_the_server_does() -> None:
    """However that ended: nobody will take up what it finds out."""
    code = "import time; from app.preparer import end_with_parent; end_with_parent(); print(); time.sleep(60)"
    command = [sys.executable, "-u", "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdout.readline()
            process.stdin.write(b"more")
            process.stdin.flush()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.1)
            process.stdin.close()
            assert process.wait(20) == 1
        finally:
            process.kill()
