"""The client with a constant rate, against a tiny server of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from benchmarks.open_loop import Target, measure
from benchmarks.outcomes import OpenLoopResult, Phase

Behaviour = Callable[[int], tuple[float, int]]
"""From the number of a request to the seconds that it takes and the status that it gets."""


async def _try(behave: Behaviour, phases: list[Phase], connections: int = 64, *, close: bool = False) -> OpenLoopResult:
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                number, count = count, count + 1
                seconds, status = behave(number)
                await asyncio.sleep(seconds)
                if not status:
                    break
                end = "Connection: close\r\n" if close else ""
                writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 5\r\n{end}\r\nhello".encode())
                if close:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await measure(Target(port, "/predict", "image/png", (b"one", b"another"), connections), phases)


async def test_all_requests_are_sent_and_counted() -> None:
    """200 a second for half a second are a hundred requests, whatever becomes of them."""
    result = await _try(lambda number: (0.0, 429 if number % 4 == 0 else 200), [Phase(200, 0.5)])
    phase = result.phases[0]
    assert (phase.accepted.count, phase.rejected.count, phase.failed) == (75, 25, 0)
    assert phase.statuses == {200: 75, 429: 25}
    assert sum(window.accepted + window.rejected for window in result.windows) == 100


async def test_a_stall_is_felt_by_all_that_were_due_in_it() -> None:
    """A server with one connection that stalls for 0.4 s delays the forty requests due meanwhile, not only one."""
    result = await _try(lambda number: (0.4 if number == 20 else 0.0, 200), [Phase(100, 1.0)], connections=1)
    accepted = result.phases[0].accepted
    assert accepted.count == 100
    assert accepted.max >= 0.4
    # Those due in the first half of the stall waited for 0.2 s or more.
    assert accepted.p90 >= 0.2


async def test_lost_connections_are_failures_and_are_replaced() -> None:
    result = await _try(lambda number: (0.0, 0 if number == 3 else 200), [Phase(100, 0.3)])
    assert result.phases[0].failed == 1
    assert result.phases[0].accepted.count == 29


async def test_a_server_that_closes_each_connection_gets_all_requests() -> None:
    result = await _try(lambda _: (0.0, 200), [Phase(100, 0.3)], connections=4, close=True)
    assert result.phases[0].accepted.count == 30


async def test_phases_are_told_apart() -> None:
    """Each phase has its own rate, and its own answers."""
    result = await _try(lambda number: (0.0, 200 if number < 20 else 503), [Phase(100, 0.2), Phase(50, 0.2)])
    assert [phase.accepted.count for phase in result.phases] == [20, 0]
    assert result.phases[1].rejected.count == 10


async def test_nobody_there_is_a_failure_and_no_wait() -> None:
    """A port where nobody listens fails all requests at once."""
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    server.close()
    await server.wait_closed()
    started = time.monotonic()
    result = await measure(Target(port, "/", "image/png", (b"x",)), [Phase(50, 0.2)])
    assert result.phases[0].failed == 10
    assert time.monotonic() - started < 10


def test_a_deadline_is_sent_with_each_request() -> None:
    [request] = Target(80, "/", "image/png", (b"x",), timeout_ms=250).requests()
    assert b"Fovea-Timeout-Ms: 250\r\n" in request
    assert request.endswith(b"Content-Length: 1\r\n\r\nx")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
