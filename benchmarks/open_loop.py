"""`python -m benchmarks.open_loop`: requests at a constant rate, whether the server keeps up or not.

Users do not wait for each other. A closed loop does: while the server stalls it sends nothing, and so hardly sees the
stall (coordinated omission). Here every request has a time at which it is due, by the rate alone, and its latency
counts from then, however late it could be sent. The client is a process of its own on one core, and says how much of
that it took and how late it was.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import uvloop

from benchmarks.outcomes import FAILED, OpenLoopResult, Phase, Record, summarise

_DRAIN_SECONDS = 15.0
_TICK_SECONDS = 0.001
_HEAD_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True)
class Target:
    """What is asked: bodies in rotation, over at most so many connections."""

    port: int
    path: str
    media_type: str
    bodies: tuple[bytes, ...]
    connections: int = 4096
    timeout_ms: int | None = None
    """Sent as `Fovea-Timeout-Ms`."""

    def requests(self) -> list[bytes]:
        """The bytes of each request."""
        timeout = f"Fovea-Timeout-Ms: {self.timeout_ms}\r\n" if self.timeout_ms is not None else ""
        return [
            f"POST {self.path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nContent-Type: {self.media_type}\r\n"
            f"{timeout}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
            for body in self.bodies
        ]


class _Connection(asyncio.Protocol):
    """One request at a time over one socket."""

    def __init__(self, loop: _OpenLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._received = b""
        self.request: int | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)

    def send(self, request: int, data: bytes) -> None:
        assert self._transport is not None
        self.request = request
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end = received.find(_HEAD_END)
        if end < 0:
            self._received = received
            return
        head = received[:end].lower()
        place = head.find(_LENGTH)
        # Every answer of the servers here has a length; without one only the end of the connection would tell.
        length = int(head[place + len(_LENGTH) :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(received) < end + len(_HEAD_END) + length:
            self._received = received
            return
        self._received = b""
        request, self.request = self.request, None
        closing = b"\r\nconnection: close" in head
        if closing:
            assert self._transport is not None
            self._transport.close()
        if request is not None:
            self._loop.answered(self, request, int(received[9:12]), usable=not closing)

    def connection_lost(self, error: Exception | None) -> None:
        request, self.request = self.request, None
        self._loop.lost(self, request)

    def abort(self) -> None:
        assert self._transport is not None
        self._transport.abort()


class _OpenLoop:
    """The client: what is due, what is under way, and what came back."""

    def __init__(self, target: Target, phases: Sequence[Phase]) -> None:
        self._target = target
        self._phases = phases
        self._requests = target.requests()
        self._record = Record.of(phases)
        self._unanswered = len(self._record.due)
        self._next = 0
        self._idle: list[_Connection] = []
        self._open: set[_Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._most = 0
        self._waiting: deque[int] = deque()
        self._done = asyncio.Event()
        self._start = 0.0

    async def run(self) -> OpenLoopResult:
        # Connections enough for the beginning, so that it does not measure how they are made.
        await asyncio.gather(*(self._connect() for _ in range(min(8, self._target.connections))))
        processor = time.process_time()
        self._start = time.perf_counter()
        self._tick()
        total = sum(phase.seconds for phase in self._phases)
        # What has no answer by then counts as failed.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._done.wait(), total + _DRAIN_SECONDS)
        cpu = time.process_time() - processor
        for connection in list(self._open):
            connection.abort()
        for opening in list(self._opening):
            opening.cancel()
        return summarise(self._phases, self._record, client_cpu_seconds=cpu, connections=self._most)

    def _tick(self) -> None:
        """Send what is due by now, and come back when the next one is."""
        now = time.perf_counter() - self._start
        due = self._record.due
        while self._next < len(due) and due[self._next] <= now:
            self._waiting.append(self._next)
            self._next += 1
        self._send_waiting()
        if self._next < len(due):
            # The event loop's clock counts milliseconds; asked for less it would spin.
            wait = max(_TICK_SECONDS, due[self._next] - now)
            asyncio.get_running_loop().call_later(wait, self._tick)

    def _send_waiting(self) -> None:
        waiting, idle = self._waiting, self._idle
        while waiting and idle:
            self._send(idle.pop(), waiting.popleft())
        room = self._target.connections - len(self._open) - len(self._opening)
        for _ in range(min(room, len(waiting) - len(self._opening))):
            task = asyncio.get_running_loop().create_task(self._connect())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    def _send(self, connection: _Connection, request: int) -> None:
        self._record.sent[request] = time.perf_counter() - self._start
        connection.send(request, self._requests[request % len(self._requests)])

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, connection = await loop.create_connection(lambda: _Connection(self), "127.0.0.1", self._target.port)
        except OSError:
            # Nobody listens, or no room in the queue for those who come: this request failed.
            if self._waiting:
                self._finish(self._waiting.popleft(), FAILED)
            return
        self._open.add(connection)
        self._most = max(self._most, len(self._open))
        self._use(connection)

    def _use(self, connection: _Connection) -> None:
        if self._waiting:
            self._send(connection, self._waiting.popleft())
        else:
            self._idle.append(connection)

    def answered(self, connection: _Connection, request: int, status: int, *, usable: bool) -> None:
        self._finish(request, status)
        if usable:
            self._use(connection)
        else:
            self._open.discard(connection)

    def lost(self, connection: _Connection, request: int | None) -> None:
        self._open.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)
        if request is not None:
            self._finish(request, FAILED)
        self._send_waiting()

    def _finish(self, request: int, status: int) -> None:
        self._record.latency[request] = time.perf_counter() - self._start - self._record.due[request]
        self._record.status[request] = status
        self._unanswered -= 1
        if not self._unanswered:
            self._done.set()


async def measure(target: Target, phases: Sequence[Phase]) -> OpenLoopResult:
    """Send all phases, one after the other, and wait for the answers."""
    return await _OpenLoop(target, phases).run()


def run(target: Target, phases: Sequence[Phase]) -> OpenLoopResult:
    """The same in a process that does nothing else."""
    # Collections would stop the clockwork; there is hardly any garbage in cycles here.
    gc.disable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(measure(target, phases))


def _phase(text: str) -> Phase:
    rate, seconds = text.split(":")
    return Phase(float(rate), float(seconds))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.open_loop", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", default="/api/v1/predict")
    parser.add_argument("--media-type", default="application/octet-stream")
    parser.add_argument("--phase", type=_phase, action="append", required=True, metavar="RATE:SECONDS")
    parser.add_argument("--connections", type=int, default=4096, help="at most so many (default: 4096)")
    parser.add_argument("--timeout-ms", type=int, help="deadline sent with each request, as Fovea-Timeout-Ms")
    parser.add_argument("files", type=Path, nargs="+", help="bodies, sent in rotation")
    options = parser.parse_args(arguments)
    target = Target(
        port=options.port,
        path=options.path,
        media_type=options.media_type,
        bodies=tuple(file.read_bytes() for file in options.files),
        connections=options.connections,
        timeout_ms=options.timeout_ms,
    )
    sys.stdout.write(run(target, options.phase).model_dump_json() + "\n")


if __name__ == "__main__":
    main()
