"""A real server: `fovea serve` as a process of its own, on a free port, with a store and a workspace of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_ADDRESS = re.compile(r"listens on (http://\S+)")
_START_SECONDS = 60


class Server:
    """A running server. `client` talks to it; `output` and `log` are what it said on stdout and stderr so far."""

    def __init__(
        self, folder: Path, *, wait: bool = True, variables: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        """Start it and wait for its banner, which it prints when every model was loaded or refused.

        Args:
            folder: holds `store` and `workspace`; made if missing. Servers in the same folder share them.
            variables: of the environment, that are no settings.
            wait: False: return at once; `announced` waits, and sets `url` and `client`.
            settings: of `app.settings.Settings`, by their names there; None leaves one unset.
        """
        values: dict[str, Any] = {
            "port": 0,
            "model_store": folder / "store",
            "workspace": folder / "workspace",
            "runtime": "fake",
            "executor": "none",
            "access_log": "all",
            "poll_interval": 0.05,
            **settings,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith("FOVEA_")}
        environment |= {f"FOVEA_{name.upper()}": str(value) for name, value in values.items() if value is not None}
        environment |= variables or {}
        self.folder = folder
        self.output = ""
        self.log = ""
        self._announced = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        self._readers = [threading.Thread(target=reader, daemon=True) for reader in (self._read_output, self._read_log)]
        for reader in self._readers:
            reader.start()
        if wait:
            self.announced()

    def announced(self) -> None:
        """Wait for the banner."""
        if not self._announced.wait(_START_SECONDS) or (found := _ADDRESS.search(self.output)) is None:
            self.kill()
            raise AssertionError(f"The server did not start:\n{self.output}\n{self.log}")
        self.url = found[1]
        self.client = httpx.Client(base_url=self.url, timeout=120)

    @property
    def port(self) -> int:
        """Port that it listens on."""
        return int(self.url.rpartition(":")[2])

    def terminate(self) -> None:
        """Send SIGTERM, as an orchestrator does, and return at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 40) -> int:
        """Wait for its end; returns the exit status, and all it said is in `output` and `log`."""
        status = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(seconds)
        return status

    def stop(self) -> int:
        """SIGTERM, then wait."""
        if hasattr(self, "client"):
            self.client.close()
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """kill -9, and wait."""
        if hasattr(self, "client"):
            self.client.close()
        self.process.kill()
        self.wait()

    def _read_output(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as stream:
            for line in stream:
                self.output += line
                # The banner is written at once; its last line says what to do next.
                if line.startswith(("  Try ", "         curl", "  Nothing answers")):
                    self._announced.set()
        self._announced.set()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                self.log += line


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Server]:
    """A server for the length of the block."""
    server = Server(folder, **settings)
    try:
        yield server
    finally:
        server.stop()


def wait_for(condition: Any, *, seconds: float = 20, what: str = "it") -> Any:
    """Call `condition` until it returns something true, and return that."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds} s"
        time.sleep(0.02)
    return value
