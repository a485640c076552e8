"""Asks the explainer, a process of its own with TensorFlow in it, which is started when it is first asked.

There is one for all processes that share a cache, and so a workspace: whoever comes first starts it. It ends by itself
when nobody has asked for long, or nobody is left; when it was killed, the next question starts another.
"""

from __future__ import annotations

import logging
import os
import platform
import re
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path

from app.errors import (
    DeadlineExceeded,
    ExplainUnavailable,
    FoveaError,
    InferenceFailed,
    InvalidRequest,
    LayerNotFound,
    ModelNotFound,
    NotExplainable,
    NotReady,
    Overloaded,
    StorageFailed,
    VersionNotFound,
    VersionRefused,
)
from app.explanations import SOCKET, TAKEN, Findings, Question, Refusal
from app.serving.private_folder import keeps_files
from app.settings import Settings

COMMAND = (sys.executable, "-m", "app.training.explainer")
NEEDS = ("tensorflow", "matplotlib")

# Questions that are asked or wait, of each process.
_MOST = 4
# Seconds after which one that was turned away may come again: an answer takes some tenths, the first one some seconds.
_RETRY_AFTER = 2.0
_IDLE_SECONDS = 600.0
_PAUSE = 0.05
_TRIES = 3
_LOG = "log.txt"
_MOST_BYTES = 64 * 2**20
_UNSAFE = re.compile(r"[^A-Za-z0-9.-]+")
# Longest name of a socket, less the final zero, on the systems that we know.
_LONGEST_NAME = 100
# On Linux a folder that is open has a short name, however long its own.
_DESCRIPTORS = Path("/proc/self/fd")

_STOPPING = "The service is shutting down."
_REFUSALS: dict[str, type[FoveaError]] = {
    error.code: error
    for error in (
        InvalidRequest,
        LayerNotFound,
        ModelNotFound,
        NotExplainable,
        StorageFailed,
        VersionNotFound,
        VersionRefused,
    )
}

_log = logging.getLogger(__name__)


class Explaining:
    """The way to the explainer. Safe to use from threads; questions are asked one at a time."""

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = COMMAND,
        idle: float = _IDLE_SECONDS,
        needs: Sequence[str] = NEEDS,
    ) -> None:
        """Starts nothing yet.

        Args:
            idle: seconds without a question after which an explainer that is started here ends.
            needs: packages without which there is none.
        """
        self._store = settings.model_store
        self._cache = settings.cache_folder
        self._command = [*command]
        self._idle = idle
        self._needs = needs
        self._waiting = 0
        self._counting = threading.Lock()
        self._asking = threading.Lock()
        self._line: _Line | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._own: tempfile.TemporaryDirectory[str] | None = None
        self._stopped = threading.Event()

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue for the length of the block; to be taken before a body is read.

        Raises:
            ExplainUnavailable: there is no TensorFlow.
            Overloaded: the queue is full.
        """
        missing = [package for package in self._needs if find_spec(package) is None]
        if missing:
            raise ExplainUnavailable(
                f"Looking into models needs {' and '.join(missing)}, which this installation has not. Use the full "
                "image, or install `fovea[serve,train]`."
            )
        with self._counting:
            if self._waiting >= _MOST:
                raise Overloaded(
                    f"{_MOST} explanations are being made or wait already; no more do. Try again in a moment.",
                    retry_after=_RETRY_AFTER,
                )
            self._waiting += 1
        try:
            yield
        finally:
            with self._counting:
                self._waiting -= 1

    def question(self, **fields: object) -> Question:
        """A question about this server's model store; fields as of `Question`, without `store`."""
        return Question.model_validate({**fields, "store": self._store.resolve()})

    def ask(self, question: Question, image: bytes = b"", *, deadline: float) -> tuple[Findings, bytes]:
        """The answer, and its PNG, empty for `layers`. Blocks for as long as that takes.

        Args:
            image: uint8 pixels of the version's input shape, for the methods that look at one.
            deadline: by `time.monotonic`.

        Raises:
            InvalidRequest, LayerNotFound, NotExplainable, ModelNotFound, VersionNotFound, VersionRefused,
            StorageFailed: what the explainer says of the question.
            DeadlineExceeded: it did not answer in time.
            InferenceFailed: it failed, or ended, or cannot be started.
            NotReady: `close` was called.
        """
        with self._asking:
            try:
                said, picture = self._exchange(question.model_dump_json().encode(), image, deadline)
            except BaseException:
                # What was left unread on it would be taken for the next answer.
                self._hang_up()
                raise
        if said.startswith(b"+"):
            return Findings.model_validate_json(said[1:]), picture
        refusal = Refusal.model_validate_json(said[1:])
        raise _REFUSALS.get(refusal.code, InferenceFailed)(refusal.message)

    def close(self) -> None:
        """Ask nothing more, and break off what is being asked. An explainer that nobody else needs ends by itself."""
        self._stopped.set()
        line = self._line
        if line is not None:
            line.cut()
        with self._asking:
            self._hang_up()
            if self._own is not None:
                self._own.cleanup()

    def _exchange(self, document: bytes, image: bytes, deadline: float) -> tuple[bytes, bytes]:
        for left in reversed(range(_TRIES)):
            if self._line is None:
                self._line = self._connect(deadline)
            # After the line is there to be cut: whoever stops before this is seen, and after it cuts.
            if self._stopped.is_set():
                raise NotReady(_STOPPING)
            try:
                return self._line.exchange(document, image, deadline)
            except (EOFError, OSError) as error:
                self._hang_up()
                if self._stopped.is_set():
                    raise NotReady(_STOPPING) from None
                # It ended when it was idle, or was killed: whatever it was, another one is tried.
                if not left:
                    raise InferenceFailed(
                        "The process that looks into models ended over the question, again and again: perhaps for want "
                        "of memory."
                    ) from error
                # One that is being killed may still seem to listen.
                self._stopped.wait(2 * _PAUSE)
        raise AssertionError

    def _connect(self, deadline: float) -> _Line:
        folder = self._folder()
        failures = 0
        while True:
            if self._stopped.is_set():
                raise NotReady(_STOPPING)
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return _Line(folder / SOCKET)
            if self._child is None or (status := self._child.poll()) is not None:
                if self._child is not None and status not in (0, TAKEN):
                    failures += 1
                if failures > 1:
                    _log.error("The explainer does not start (%s): %s", status, _last_line(folder / _LOG))
                    raise InferenceFailed("The process that looks into models does not start; the log has more.")
                self._child = self._start(folder)
            if time.monotonic() > deadline:
                raise DeadlineExceeded("The process that looks into models did not start in time; try again.")
            self._stopped.wait(_PAUSE)

    def _start(self, folder: Path) -> subprocess.Popen[bytes]:
        try:
            with (folder / _LOG).open("wb") as log:
                child = subprocess.Popen(
                    [*self._command, str(folder), "--idle", str(self._idle)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # What a terminal, or whoever ends the server, sends to all of its group is not for the explainer,
                    # which others may use. The session stays: cores may be shared out by sessions.
                    process_group=0,
                )
        except OSError as error:
            raise InferenceFailed(f"The process that looks into models cannot be started: {error.strerror}.") from error
        # So that it leaves nothing behind when it ends long before the next question.
        threading.Thread(target=child.wait, daemon=True).start()
        return child

    def _folder(self) -> Path:
        """Where the socket is: in the cache, or where that cannot be, a folder of this process's own.

        It has the machine's name: pods may share a workspace over the network, but no sockets.
        """
        folder = self._cache.resolve() / f"explainer-{_UNSAFE.sub('-', platform.node())[:63]}"
        named = len(os.fsencode(folder / SOCKET)) <= _LONGEST_NAME or _DESCRIPTORS.is_dir()
        if self._own is None and named and keeps_files(folder):
            return folder
        if self._own is None:
            self._own = tempfile.TemporaryDirectory(prefix="fovea-explainer-", ignore_cleanup_errors=True)
        return Path(self._own.name)

    def _hang_up(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            line.close()


class _Line:
    """A connection to an explainer."""

    def __init__(self, path: Path) -> None:
        """Raises FileNotFoundError or ConnectionRefusedError where nobody listens; OSError."""
        # Not for the start of the service, which takes no longer than it must.
        from multiprocessing.connection import Connection

        self._link = socket.socket(socket.AF_UNIX)
        try:
            _connect(self._link, path)
            self._connection = Connection(os.dup(self._link.fileno()))
        except BaseException:
            self._link.close()
            raise

    def exchange(self, document: bytes, image: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Send two pieces of bytes, and return the two that come back.

        Raises:
            DeadlineExceeded: they do not come in time.
            EOFError, OSError: the other side has gone.
        """
        # Zero would mean endless.
        left = max(deadline - time.monotonic(), 0.001)
        times = struct.pack("ll", int(left), int(left % 1 * 1_000_000))
        for option in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):
            self._link.setsockopt(socket.SOL_SOCKET, option, times)
        try:
            self._connection.send_bytes(document)
            self._connection.send_bytes(image)
            if self._connection.poll(left):
                said = self._connection.recv_bytes(_MOST_BYTES)
                return said, self._connection.recv_bytes(_MOST_BYTES)
        except BlockingIOError:
            pass
        raise DeadlineExceeded("The explanation was not made in time; the next may be quicker. Try again.")

    def cut(self) -> None:
        """Have whoever waits for an answer get an error, at once."""
        with suppress(OSError):
            self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go."""
        self._connection.close()
        self._link.close()


def _connect(link: socket.socket, path: Path) -> None:
    if len(os.fsencode(path)) <= _LONGEST_NAME:
        link.connect(str(path))
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        link.connect(str(_DESCRIPTORS / str(folder) / path.name))
    finally:
        os.close(folder)


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:500] if lines else ""
