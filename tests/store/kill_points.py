"""A program that does one thing to many stores, and is killed at another point each time.

    python -m tests.store.kill_points strace|audit ACTION FOLDER

FOLDER holds equal stores, named 0, 1, 2, … The program prints "ready <pid>", waits for a line, then
forks one child a store. Each is to die at one file-system call: the first openat, the second, and so
on until a child survives, then the first write, and so forth. At the end it prints, as JSON,
how many calls of each kind killed; for each kind one more store was used, that of the survivor.

With `strace`, somebody attaches it meanwhile and has it kill each process at call number MOST of
each kind (strace counts each kind by itself): the child makes so many idle calls first that it is
the wanted one that hits. With `audit`, the child counts Python's audit events and kills itself:
coarser, but it needs no privilege.
"""

from __future__ import annotations

import ctypes
import fcntl
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from app.store.registry import Registry
from tests.store.versions import add_version

ACKNOWLEDGED = "acknowledged"
MOST = 100

_NO_FILE = 2**20
_NOWHERE = Path("/no/such/folder/file")

# For each kind of call, one that does nothing. Calls that only read are left out: a kill there
# leaves what a kill at the next of these leaves.
IDLE: dict[str, Callable[[], object]] = {
    "openat": lambda: os.open(_NOWHERE, os.O_RDONLY),
    "mkdir": lambda: _NOWHERE.mkdir(),
    "write": lambda: os.write(_NO_FILE, b""),
    "fsync": lambda: os.fsync(_NO_FILE),
    "close": lambda: os.close(_NO_FILE),
    "flock": lambda: fcntl.flock(_NO_FILE, fcntl.LOCK_EX),
    "rename": lambda: _NOWHERE.rename(_NOWHERE),
    "link": lambda: os.link(_NOWHERE, _NOWHERE),
    "unlink": lambda: _NOWHERE.unlink(),
    "unlinkat": lambda: os.unlink("x", dir_fd=_NO_FILE),
    "rmdir": lambda: _NOWHERE.rmdir(),
}
_EVENTS = frozenset(
    {"open", "os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.scandir", "os.listdir", "fcntl.flock"}
)
_PR_SET_PTRACER, _ANYBODY = 0x59616D61, ctypes.c_ulong(-1)


def act(action: str, root: Path) -> None:
    registry = Registry(root)
    match action:
        case "register":
            version = add_version(registry)
        case "promote":
            version = registry.promote("cats", 2, by="test").version
        case "rollback":
            version = registry.rollback("cats", by="test").version
        case _:
            raise ValueError(action)
    # What follows a call that returned: an answer to whoever asked.
    (root.parent / f"{root.name}.{ACKNOWLEDGED}").write_text(str(version))


def main(how: str, action: str, folder: Path) -> None:
    # Where Yama restricts tracing to ancestors, allow it; elsewhere this fails and does no harm.
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, _ANYBODY, 0, 0, 0)
    print("ready", os.getpid(), flush=True)
    sys.stdin.readline()
    stores = (folder / str(number) for number in itertools.count())
    kills = {
        call: next(point - 1 for point in range(1, MOST) if not _run_child(call, point, action, next(stores)))
        for call in (IDLE if how == "strace" else ["audit"])
    }
    print(json.dumps(kills))


def _run_child(call: str, point: int, action: str, root: Path) -> bool:
    """Whether the child was killed."""
    child = os.fork()
    if child == 0:
        if call == "audit":
            _die_at_event(point)
        else:
            for _ in range(MOST - point):
                with suppress(OSError):
                    IDLE[call]()
        act(action, root)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and status != 0:
        sys.exit(f"{action} failed")
    return os.WIFSIGNALED(status)


def _die_at_event(number: int) -> None:
    left = number

    def count(event: str, _: object) -> None:
        nonlocal left
        if event in _EVENTS:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
