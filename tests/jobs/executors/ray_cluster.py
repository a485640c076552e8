"""A real Ray cluster of two nodes on this machine, for tests.

It is kept by a process of its own, `python -m tests.jobs.executors.ray_cluster FOLDER TOKEN`, which
ends all of it when its standard input closes: so it is gone even if the tests are killed.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MARK = "FOVEA_TEST_RAY"
# Cores of each node: two jobs run at a time, and they do on different nodes.
CPUS_A_NODE = 1
_PATIENCE = 120.0


class RayCluster:
    """Two nodes, `0` (the head) and `1`, of which the second may be killed."""

    def __init__(self) -> None:
        """Begin to start it; `address` waits until it is there."""
        # Ray's sockets lie in it, and their paths must be short.
        folder = Path(tempfile.mkdtemp(prefix="ray"))
        self.token = f"{random.getrandbits(128):032x}"
        self._log = folder / "keeper.log"
        with self._log.open("wb") as log:
            self._keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.jobs.executors.ray_cluster", str(folder), self.token],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests
            )
        self._address = ""

    @property
    def address(self) -> str:
        """Of its dashboard."""
        if not self._address:
            assert self._keeper.stdout is not None
            line = self._keeper.stdout.readline()
            assert line, f"Ray did not start:\n{self._log.read_text(errors='replace')[-4000:]}"
            self._address = json.loads(line)["address"]
        return self._address

    def node_of(self, pid: int) -> int:
        """The node that a process runs on."""
        return next(node for node in (0, 1) if pid in processes(self.token, node))

    def kill(self, node: int, *, sparing: int) -> None:
        """`kill -9` all processes of a node but one."""
        for pid in processes(self.token, node) - {sparing}:
            _kill(pid)

    def close(self) -> None:
        """End every process of it."""
        self._keeper.communicate()


def processes(token: str, node: int | None = None) -> set[int]:
    """Whatever runs in the cluster, or on one node of it: all that Ray starts inherits its environment.

    Some hide that, by giving themselves another name; those have a parent that does not.
    """
    mark = f"{_MARK}={token}-{'' if node is None else node}".encode()
    children: dict[int, list[int]] = {}
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            pid = int(path.name)
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(pid)
            if any(entry.startswith(mark) for entry in (path / "environ").read_bytes().split(b"\0")):
                found.append(pid)
    all_of_them: set[int] = set()
    while found:
        pid = found.pop()
        if pid not in all_of_them:
            all_of_them.add(pid)
            found += children.get(pid, [])
    return all_of_them


def main(folder: Path, token: str) -> None:
    try:
        print(json.dumps({"address": _start(folder, token)}), flush=True)
        sys.stdin.buffer.read()
    finally:
        deadline = time.monotonic() + 20
        # Some start others while they are ended.
        while (left := processes(token)) and time.monotonic() < deadline:
            for pid in left:
                _kill(pid)
            time.sleep(0.05)
        shutil.rmtree(folder, ignore_errors=True)


def _start(folder: Path, token: str) -> str:
    ports = iter(_free_ports(40))
    gcs, dashboard = next(ports), next(ports)
    head = _ray(
        token, 0, ports, "--head", f"--port={gcs}", f"--temp-dir={folder}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={next(ports)}",
    )  # fmt: skip
    _wait_for(gcs, head)
    second = _ray(token, 1, ports, f"--address=127.0.0.1:{gcs}")
    for process in (head, second):
        if process.wait(_PATIENCE) != 0:
            raise RuntimeError("ray start failed; its output stands above")
    _wait_for(dashboard, head)
    return f"http://127.0.0.1:{dashboard}"


def _ray(token: str, node: int, ports: Iterator[int], *arguments: str) -> subprocess.Popen[bytes]:
    own = [
        f"--{name}-port={next(ports)}"
        for name in (
            "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent", "node-manager", "object-manager",
            "metrics-export",
        )
    ]  # fmt: skip
    return subprocess.Popen(
        [
            Path(sys.executable).with_name("ray"), "start", *arguments, *own,
            f"--worker-port-list={','.join(str(next(ports)) for _ in range(8))}", f"--num-cpus={CPUS_A_NODE}",
            "--num-gpus=0", f"--object-store-memory={80 * 2**20}", "--include-log-monitor=false",
            "--disable-usage-stats", "--log-color=false",
        ],
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        env={
            **os.environ,
            _MARK: f"{token}-{node}",
            # Ray listens on all addresses, and runs what it is told.
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": token,
            "RAY_USAGE_STATS_ENABLED": "0",
            # Other processes of a busy machine are no reason to end a job here.
            "RAY_memory_monitor_refresh_ms": "0",
            # A node whose processes are gone is given up within seconds; one that is only slow is not.
            "RAY_health_check_initial_delay_ms": "500",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
        },
    )  # fmt: skip


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and process.poll() in (None, 0):
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def _free_ports(number: int) -> list[int]:
    """Ports that nothing listens on, below those that the kernel gives to outgoing connections."""
    free: list[int] = []
    for port in random.sample(range(12_000, 32_000), 1000):
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("", port))
            free.append(port)
        if len(free) == number:
            return free
    raise RuntimeError("no free ports")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
