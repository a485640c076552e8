"""Many processes at once, and processes that die."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from app.store.registry import Registry
from app.store.storage import LocalStorage
from tests.store.versions import add_version

_PROCESSES = 32

# Forks its workers after the import and holds them at a barrier: they act at the same moment.
_CROWD = """
import os, sys
from pathlib import Path
from app.store.registry import Registry
from tests.store.versions import add_version

action, root, processes = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
barrier, go = os.pipe()
children = []
for number in range(processes):
    child = os.fork()
    if child == 0:
        os.close(go)
        os.read(barrier, 1)
        registry = Registry(root)
        if action == "register":
            result = add_version(registry, created_by=f"process {number}")
        else:
            result = registry.promote("cats", number + 1, by=f"process {number}").sequence
        os.write(1, f"{number} {result}\\n".encode())
        os._exit(0)
    children.append(child)
os.close(go)
sys.exit(sum(os.waitpid(child, 0)[1] != 0 for child in children))
"""


def test_32_processes_that_register_at_once_get_32_versions(tmp_path: Path) -> None:
    """Each gets a number of its own, none is lost, and each folder holds what its process wrote."""
    results = _crowd("register", tmp_path)
    registry = Registry(tmp_path)
    assert sorted(results.values()) == list(range(1, _PROCESSES + 1))
    assert registry.versions("cats") == list(range(1, _PROCESSES + 1))
    for number, version in results.items():
        assert registry.verify("cats", version).created_by == f"process {number}"


def test_32_processes_that_promote_at_once_all_stand_in_the_log(tmp_path: Path) -> None:
    """Each promotion is one entry, in some order, without gaps; the last one is production."""
    registry = Registry(tmp_path)
    for _ in range(_PROCESSES):
        add_version(registry)
    results = _crowd("promote", tmp_path)
    log = registry.promotions("cats")
    assert [entry.sequence for entry in log] == list(range(1, _PROCESSES + 1))
    assert {entry.version: entry.sequence for entry in log} == {n + 1: sequence for n, sequence in results.items()}


def test_cleaning_spares_the_living_and_takes_what_the_dead_left(tmp_path: Path) -> None:
    """A staging folder in use by another process stays; once that is killed the folder goes."""
    program = (
        "import sys, time; from pathlib import Path; from app.store.storage import LocalStorage\n"
        "with LocalStorage(Path(sys.argv[1])).staging() as folder:\n"
        "    (folder / 'file').write_text('half'); print(folder.name, flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        folder = tmp_path / ".staging" / process.stdout.readline().strip()
        storage = LocalStorage(tmp_path)
        with storage.staging() as own:
            assert storage.clean() == 0
            assert own.exists()
            assert (folder / "file").exists()
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert storage.clean() == 1
            assert own.exists()
    assert list((tmp_path / ".staging").iterdir()) == []


def _crowd(action: str, root: Path) -> dict[int, int]:
    """What each of the processes got, by its number."""
    command = [sys.executable, "-c", _CROWD, action, str(root), str(_PROCESSES)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a process that forks should have one thread
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    results = {int(number): int(result) for number, result in map(str.split, done.stdout.splitlines())}
    assert len(results) == _PROCESSES
    return results
