"""Taking connections: evenly where several processes accept from one socket, and without losing one at the end."""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import socket
import time
from array import array
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

# For each connection that this process holds more than another: long enough for one that idles to wake up and take the
# new one, too short for a client to notice; and the most, for where another has no time for it.
_GIVE_WAY_SECONDS = 0.001
_LONGEST_SECONDS = 0.02
# When no more connections can be opened. Other errors are those of the one connection.
_TROUBLE_SECONDS = 1.0
_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# A process that has not said for so long what it holds does not take the next connection either: it says so ten times a
# second, unless it hangs.
_STALE_SECONDS = 0.5
_ABSENT = 2**31 - 1

_log = logging.getLogger(__name__)


class Occupancy:
    """How many connections each process holds, and when it said so: two doubles each, in a file that all map into
    their memory.

    Each writes its own only, so that no lock is needed; a number that is a little old does no harm.
    """

    def __init__(self, path: Path) -> None:
        """Map a file that `create` made."""
        with path.open("r+b") as file:
            self._numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("d")

    @staticmethod
    def create(path: Path, processes: int) -> None:
        """Make the file. Nobody accepts yet."""
        path.write_bytes(array("d", [_ABSENT, 0.0] * processes).tobytes())

    def write(self, process: int, connections: int, now: float) -> None:
        """Say how many a process holds, at a time by `time.monotonic`, which is the same for all."""
        self._numbers[2 * process] = connections
        self._numbers[2 * process + 1] = now

    def leave(self, process: int) -> None:
        """Say that a process takes no connections."""
        self._numbers[2 * process] = _ABSENT

    def fewest(self, now: float) -> int:
        """What the process with the fewest holds, of those that have said so lately."""
        numbers = iter(self._numbers)
        fresh = (held for held, said in zip(numbers, numbers, strict=True) if now - said < _STALE_SECONDS)
        return int(min(fresh, default=_ABSENT))


class Acceptor:
    """Takes connections for one process, one at a time, and leaves them to another that holds fewer.

    An event loop's own server takes all that wait at once: of 32 clients that connect together, one process of two
    may get all, and the other idles for as long as they stay. And when it ends, it breaks those that still wait.
    """

    def __init__(
        self,
        listener: socket.socket,
        connections: Collection[object],
        protocol: Callable[[], asyncio.Protocol],
        *,
        occupancy: Occupancy | None = None,
        process: int = 0,
    ) -> None:
        """Begin to accept.

        Args:
            listener: listens, and does not block.
            connections: those that this process holds, kept up to date by the protocols.
            protocol: makes one for a connection.
            occupancy: what the others hold; None if there are none.
            process: the number of this one.
        """
        self._listener = listener
        self._connections = connections
        self._protocol = protocol
        self._occupancy = occupancy
        self._process = process
        self._loop = asyncio.get_running_loop()
        self._opening: set[asyncio.Task[None]] = set()
        self._pausing: asyncio.TimerHandle | None = None
        self.publish()
        self._loop.add_reader(listener, self._readable)

    def publish(self) -> None:
        """Say how many connections are held; to be called now and then, since they also end."""
        if self._occupancy is not None:
            self._occupancy.write(self._process, self._held(), time.monotonic())

    async def stop(self) -> None:
        """Take what waits already, for it would be broken otherwise; then close the socket."""
        self._loop.remove_reader(self._listener)
        if self._pausing is not None:
            self._pausing.cancel()
        if self._occupancy is not None:
            self._occupancy.leave(self._process)
        with suppress(OSError):
            while self._take():
                pass
        self._listener.close()
        await asyncio.gather(*self._opening, return_exceptions=True)

    def _held(self) -> int:
        return len(self._connections) + len(self._opening)

    def _readable(self) -> None:
        self.publish()
        ahead = 0 if self._occupancy is None else self._held() - self._occupancy.fewest(time.monotonic())
        if ahead > 0:
            self._pause(min(ahead * _GIVE_WAY_SECONDS, _LONGEST_SECONDS))
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._pausing = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._pausing = None
        self._loop.add_reader(self._listener, self._readable)
        # The connection may still be there: its turn has come, whoever holds more.
        self._accept()

    def _accept(self) -> None:
        try:
            self._take()
        except OSError as error:
            if error.errno in _EXHAUSTED:
                _log.error("no connection can be accepted: %s", error.strerror)
                self._pause(_TROUBLE_SECONDS)
            else:
                _log.warning("a connection could not be accepted: %s", error.strerror)
                self._pause(_LONGEST_SECONDS)
        self.publish()

    def _take(self) -> bool:
        """Take a connection if one waits. Raises OSError: that one cannot be had, or no more can be opened."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False  # another process was faster, or the client has gone
        opening = self._loop.create_task(self._open(connection))
        self._opening.add(opening)
        opening.add_done_callback(self._opening.discard)
        return True

    async def _open(self, connection: socket.socket) -> None:
        try:
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await self._loop.connect_accepted_socket(self._protocol, connection)
        except OSError:
            connection.close()  # the client has gone
