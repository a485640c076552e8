"""Has a version compiled and its engines timed by a process of its own, `python -m app.preparer`.

Both take a second of a core, which those who are being answered would feel. A process below all others has only what
they leave; and since it ends, no thread that it made serves at that priority for ever, as it would if a thread of the
server were put back: no process may raise its priority again. What it finds out goes to the cache, where the server
takes it up within a fraction of the time.
"""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.errors import NotReady, VersionRefused
from app.serving.golden import read_expected
from app.settings import Settings
from app.store.manifest import MANIFEST, Manifest

COMMAND = (sys.executable, "-m", "app.preparer")

# It has a second or two of work. Where the machine gives it less than that within so long, the server does it.
_PATIENCE = 30.0
# What a process ends with that a graph has brought down; it would have been the server.
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGILL, signal.SIGFPE}
# It aborts for want of memory or threads too, which is no fault of the graph: once is no proof. Seconds until it is
# tried again, in which some may become free.
_PAUSE = 1.0

_STOPPING = "The service is shutting down."

_log = logging.getLogger(__name__)


class Task(BaseModel):
    """What is to be prepared, and for whom."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    lanes: int
    threads: int
    cache: Path
    max_batch: int
    runtime: Literal["auto", "openvino", "litert", "tensorflow", "fake"]
    precision: Literal["auto", "f32", "bf16", "int8"]

    @classmethod
    def of(cls, settings: Settings, folder: Path, lanes: int, threads: int) -> Task:
        """The preparation of the version in `folder`, which is verified already, for a server with these settings."""
        return cls(
            folder=folder.resolve(),
            lanes=lanes,
            threads=threads,
            cache=settings.cache_folder.resolve(),
            max_batch=settings.max_batch,
            runtime=settings.runtime,
            precision=settings.precision,
        )


class Preparation:
    """Runs preparations, each as a child of this process. Safe to call from threads."""

    def __init__(self, settings: Settings, *, command: Sequence[str] = COMMAND) -> None:
        """Starts nothing yet."""
        self._settings = settings
        self._command = list(command)
        self._children: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopped = threading.Event()

    def run(self, folder: Path, *, lanes: int, threads: int) -> None:
        """Have the cache filled for a version; returns when that is done, or cannot be done in this way.

        Raises:
            VersionRefused: the version brought the process down; by aborting, twice.
            NotReady: it was broken off by `stop`.
        """
        task = Task.of(self._settings, folder, lanes, threads)
        try:
            status, said = self._run(task)
            if -status == signal.SIGABRT:
                _log.warning("What prepares %s was aborted (%s); it is tried once more.", folder, said)
                self._stopped.wait(_PAUSE)
                status, said = self._run_again(task, status)
        except OSError as error:
            _log.warning("No process can be started to prepare %s: %s", folder, error.strerror)
            return
        if -status in _CRASHES:
            raise VersionRefused(f"it ended the process that compiled it, with {signal.Signals(-status).name}.")
        if status != 0:
            _log.warning("%s was not prepared aside (%d): %s", folder, status, said or "it took too long")

    def stop(self) -> None:
        """End what runs; nothing is begun any more."""
        with self._lock:
            self._stopped.set()
            for child in self._children:
                child.kill()

    def _run_again(self, task: Task, status: int) -> tuple[int, str]:
        """After `status`: another one only where the process came to an end of its own. Else the server would try."""
        try:
            again, said = self._run(task)
        except OSError as error:
            return status, str(error)
        return (again if again >= 0 else status), said

    def _run(self, task: Task) -> tuple[int, str]:
        """A child's exit status, and the last line that it said. Raises NotReady; OSError where none can be begun."""
        with self._lock:
            if self._stopped.is_set():
                raise NotReady(_STOPPING)
            child = subprocess.Popen(
                self._command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                # What a terminal, or whoever ends the server, sends to all of the server's group is not for the child.
                # The session stays the same: Linux may share the cores out by sessions, whatever the priorities are.
                process_group=0,
            )
            self._children.add(child)
        try:
            with child:
                answer = _wait(child, task)
        finally:
            with self._lock:
                self._children.discard(child)
        if self._stopped.is_set():
            raise NotReady(_STOPPING)
        return answer


def _wait(child: subprocess.Popen[bytes], task: Task) -> tuple[int, str]:
    """The child's exit status, and the last line that it said."""
    told, child.stdin = child.stdin, None
    assert told is not None
    # It stays open for as long as somebody waits here: by its end the child knows that nobody does.
    with told:
        with suppress(BrokenPipeError):  # its exit status says why
            told.write(task.model_dump_json().encode() + b"\n")
        try:
            _, said = child.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            child.kill()
            _, said = child.communicate()
    lines = said.decode(errors="replace").strip().splitlines()
    return child.returncode, lines[-1][:500] if lines else ""


def prepare(task: Task) -> None:
    """Fill the cache.

    Raises:
        VersionRefused: as the server will say when it opens the version.
    """
    # Only in the child: they would have the server's other rooms in a circle.
    from app.serving.engine_choice import EngineChoice, Opening

    settings = Settings(
        cache=task.cache, max_batch=task.max_batch, runtime=task.runtime, precision=task.precision, workspace=task.cache
    )
    manifest = Manifest.model_validate_json((task.folder / MANIFEST).read_bytes())
    expected = read_expected(task.folder, manifest)
    opening = Opening(task.folder, manifest, expected, task.lanes, task.threads, decode_seconds=0.0, beside=True)
    EngineChoice.of(settings).prepare(opening)


def perform(task: bytes) -> None:
    """Do a task, in JSON, in a process that ends then: with the reason where the version is refused."""
    try:
        prepare(Task.model_validate_json(task))
    except VersionRefused as refusal:
        sys.exit(str(refusal))
