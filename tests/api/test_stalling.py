"""Which silent connections are closed, and when."""

from __future__ import annotations

import asyncio

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from app.api.stalling import Stalled
from tests.api.wire import Wire

pytestmark = pytest.mark.anyio

POST = b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\n"
HEAD_SECONDS, IDLE_SECONDS = 30, 65


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    await send({"type": "http.response.start", "status": 429, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


async def connect(sent: bytes, then: bytes = b"") -> tuple[HttpToolsProtocol, Wire]:
    """A connection of uvicorn's on which something was sent, and more after the answer."""
    config = uvicorn.Config(refuse, log_config=None, access_log=False)
    connection = HttpToolsProtocol(config, ServerState(), {})
    wire = Wire()
    connection.connection_made(wire)
    for data in filter(None, (sent, then)):
        connection.data_received(data)
        for _ in range(5):
            await asyncio.sleep(0)
    return connection, wire


def life(connection: HttpToolsProtocol, wire: Wire) -> int:
    """Seconds until it is closed."""
    stalled = Stalled(HEAD_SECONDS, IDLE_SECONDS)
    for now in range(200):
        stalled.close([connection], now)
        if wire.closed:
            return now
    return 200


@pytest.mark.parametrize("sent", [b"", b"GET / HT"])
async def test_connection_without_a_head_is_closed_after_its_time(sent: bytes) -> None:
    """Whether nothing came, or half of it."""
    assert life(*await connect(sent)) == HEAD_SECONDS


async def test_connection_that_uvicorn_times_is_left_to_it() -> None:
    """Between two requests its own timer runs."""
    connection, wire = await connect(POST)
    assert wire.written.startswith(b"HTTP/1.1 429")
    assert life(connection, wire) == 200


async def test_rest_of_a_refused_body_does_not_cost_the_connection() -> None:
    """It ends uvicorn's timer; yet the connection idles, for as long as any other may."""
    assert life(*await connect(POST, b"x" * 10)) == IDLE_SECONDS


async def test_half_a_head_after_a_refused_body_has_a_heads_time() -> None:
    """What comes after the body is the next request."""
    assert life(*await connect(POST, b"x" * 10 + b"GET / HT")) == HEAD_SECONDS


async def test_head_that_begins_late_has_its_own_time() -> None:
    """Idling before it is not counted."""
    connection, wire = await connect(POST, b"x" * 10)
    stalled = Stalled(HEAD_SECONDS, IDLE_SECONDS)
    stalled.close([connection], 0)
    connection.data_received(b"GET / HT")
    stalled.close([connection], 60)
    stalled.close([connection], 89)
    assert not wire.closed
    stalled.close([connection], 90)
    assert wire.closed
