"""Lets a client hear why its body was refused while it is still sending it.

A server that closes a connection with unread data in it resets it, and the reset can
overtake the answer: the client sees a broken connection instead of "413, the limit is …".
So the answer goes out whole, what still comes is read and dropped for a short while, and
only then is the connection closed. Of a small body the rest is on its way already: it is
dropped when it comes, and the connection stays open, since under overload new connections
would cost more than the refusals.

Not so of a client that asks before it sends (`Expect: 100-continue`): told no, it keeps its
body, and what it sent next on the same connection would be taken for that body. So here too
the connection is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

# Somewhat less than other servers do: nginx lingers for 30 s, and 5 s in silence.
_TOTAL_SECONDS = 5.0
_IDLE_SECONDS = 2.0
# What a client may still send of a body that is declared no larger than this; the server under us drops it.
SMALL_BYTES = 2**20


class Lingering:
    """ASGI middleware for requests with a body that are answered before the body's end."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; only those of which the rest of the body is large, or may never come, are treated so."""
        if scope["type"] != "http" or not _must_end(scope):
            await self._app(scope, receive, send)
            return
        complete = False
        lingering = False

        async def watched() -> Message:
            nonlocal complete
            message = await receive()
            complete = complete or not message.get("more_body", False)
            return message

        async def held(message: Message) -> None:
            nonlocal lingering
            if message["type"] == "http.response.start" and not complete:
                lingering = True
                headers = [header for header in message["headers"] if header[0] != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
            elif lingering and message["type"] == "http.response.body" and not message.get("more_body", False):
                # Content-Length tells the client that this is all; to the server it is not over yet.
                await send({**message, "more_body": True})
                await _drain(watched, lambda: complete)
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        await self._app(scope, watched, held)


async def _drain(receive: Receive, complete: Callable[[], bool]) -> None:
    try:
        async with asyncio.timeout(_TOTAL_SECONDS):
            while not complete():
                async with asyncio.timeout(_IDLE_SECONDS):
                    await receive()
    except TimeoutError:
        pass


def _must_end(scope: Scope) -> bool:
    """Whether the connection cannot go on if the body is not read."""
    has_body = expects = False
    for name, value in scope["headers"]:
        if name == b"transfer-encoding":
            return True
        if name == b"content-length":
            if not value.isdigit() or int(value) > SMALL_BYTES:
                return True
            has_body = int(value) > 0
        elif name == b"expect":
            expects = True
    return has_body and expects
