"""What becomes of a connection whose request is answered before its body has come."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.lingering import Lingering

pytestmark = pytest.mark.anyio


async def closes(*headers: tuple[bytes, bytes], status: int = 429, read: bool = False) -> bool:
    """Whether the client is told that the connection ends, by an application that may read the body or not."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if read:
            await receive()
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"no"})

    sent: list[Message] = []
    left: list[Message] = [{"type": "http.request", "body": b"x", "more_body": False}, {"type": "http.disconnect"}]

    async def receive() -> Message:
        return left.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    await asyncio.wait_for(Lingering(app)({"type": "http", "headers": [*headers]}, receive, send), 5)
    assert b"".join(message.get("body", b"") for message in sent) == b"no"
    assert not sent[-1].get("more_body", False)
    return (b"connection", b"close") in sent[0]["headers"]


async def test_small_body_that_is_on_its_way_costs_no_connection() -> None:
    """It is dropped when it comes."""
    assert not await closes((b"content-length", b"1000"))
    assert not await closes()


async def test_large_or_endless_body_costs_the_connection() -> None:
    """Else all of it would have to be waited for."""
    assert await closes((b"content-length", b"2000000"))
    assert await closes((b"transfer-encoding", b"chunked"))


@pytest.mark.parametrize("status", [200, 401, 415, 429])
async def test_body_that_the_client_asked_about_costs_the_connection(status: int) -> None:
    """Refused, the client does not send it: the next request on the connection would be taken for it."""
    assert await closes((b"content-length", b"1000"), (b"expect", b"100-continue"), status=status)
    assert await closes((b"expect", b"100-continue"), (b"content-length", b"1000"), status=status)


async def test_body_that_was_read_costs_no_connection() -> None:
    """However it was announced."""
    expect = (b"expect", b"100-continue")
    assert not await closes((b"content-length", b"1000"), expect, read=True)
    assert not await closes((b"content-length", b"2000000"), read=True)
    assert not await closes(expect)
