"""Processes that have TensorFlow at hand: forked from one that has imported it, which takes seconds each time.

Only their imports are shared. They are processes like others, with results, limits and signals of their own.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import resource
import sys
from pathlib import Path

_IMPORTED_ONCE = ["app.training.pipeline", "app.training.__main__"]


class Forked:
    """A running program, with what the tests need of `subprocess.Popen`."""

    def __init__(
        self,
        module: str,
        arguments: list[str],
        *,
        log: Path,
        environment: dict[str, str] | None = None,
        file_size: int | None = None,
    ) -> None:
        """Start it.

        Args:
            module: the name of one with a function `main`, which takes the arguments and returns an exit status.
            arguments: for it.
            log: where its output is added to.
            environment: on top of this process' own.
            file_size: most bytes that it may write to a file: the kernel refuses the rest, as on a full disk.
        """
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_IMPORTED_ONCE)
        given = (module, arguments, str(log), {**os.environ, **(environment or {})}, file_size)
        self._process = context.Process(target=_run, args=given, daemon=True)
        self._process.start()

    def wait(self, seconds: float) -> int:
        """Its exit status; negative: the signal that ended it."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"it runs for more than {seconds} s"
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()


def _run(module: str, arguments: list[str], log: str, environment: dict[str, str], file_size: int | None) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.clear()
    os.environ.update(environment)
    if file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    sys.exit(importlib.import_module(module).main(arguments))
