"""uvicorn's connection, with a direct way for small predict requests that come in one piece."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.api.direct import MOST_BYTES, Direct, Exchange
from app.api.lingering import SMALL_BYTES
from app.api.ways import Way

logger = logging.getLogger(__name__)

# One that needs no decoding.
_QUERY = re.compile(rb"[A-Za-z0-9_.=&-]*")


class Connection(HttpToolsProtocol):
    """A connection. The head of a request that may go the direct way is held back until its body has come, which is
    mostly in the same piece; if it has not, or if the request is not for that way, it goes uvicorn's."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], *, direct: Direct) -> None:
        super().__init__(config, server_state, app_state)
        self._direct = direct
        self.nobody = asyncio.Event()
        """For what uvicorn would wake and is not there."""
        self._answering: DirectCycle | None = None
        """The request of the direct way that is not answered yet; `cycle` may be that of the next one already."""
        self._held: bytes | None = None
        """What has come of the body of a request whose head is held back."""
        self._held_for: tuple[Way, Mapping[str, str]]
        """The way of that request, and the values of the places in its path."""

    def data_received(self, data: bytes) -> None:
        """Take in what the client sent."""
        super().data_received(data)
        if self._held is not None:
            self._release()

    def on_headers_complete(self) -> None:
        """Hold the head back, or begin with the request."""
        # The request before may have been answered in this very piece of data, which sets the timer again.
        self._unset_keepalive_if_required()
        if self.parser.get_method() == b"POST" and (way := self._way()) is not None:
            length = self._declared_length()
            if 0 < length <= MOST_BYTES:
                self._held, self._held_for = b"", way
                return
            # What comes of the body is dropped, as long as it is little; see `app.api.lingering`.
            if MOST_BYTES < length <= SMALL_BYTES and self._begin(partial(self._direct.refuse, *way)):
                return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body

    def on_message_complete(self) -> None:
        """Begin with a request that was held back."""
        body = self._held
        if body is not None:
            if self._begin(partial(self._direct.begin, *self._held_for, body=body)):
                self._held = None
                return
            self._release()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what is not answered."""
        cycle, self._answering = self._answering, None
        try:
            if cycle is not None and cycle.exchange is not None:
                cycle.exchange.leave()
        finally:
            super().connection_lost(exc)

    def answered(self) -> None:
        """Note that the request of the direct way was answered."""
        self._answering = None
        self.on_response_complete()

    def _way(self) -> tuple[Way, Mapping[str, str]] | None:
        """The way of the request whose head has come, if it may go past ASGI."""
        if not (
            self._direct.open
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.root_path
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
        ):
            return None
        path, _, query = self.url.partition(b"?")
        return self._direct.ways.find(path) if _QUERY.fullmatch(query) else None

    def _declared_length(self) -> int:
        """Bytes that the body is said to have; 0 if that is not said."""
        for name, value in self.headers:
            if name == b"content-length":
                return int(value)
        return 0

    def _begin(self, begin: Callable[..., Exchange | None]) -> bool:
        """Whether the request goes the direct way."""
        cycle = DirectCycle(self)
        # Before it begins, since it may end at once.
        before, self.cycle = self.cycle, cycle  # type: ignore[assignment]  # it has what uvicorn asks of one
        self._answering = cycle
        try:
            cycle.exchange = begin(headers=self.headers, query=self.url.partition(b"?")[2], send=cycle.send)
        except Exception:
            # Whatever it is, it is the ordinary way's to answer; here it would be taken for a fault of the client's.
            logger.exception("Unexpected error before a request was taken in")
        if cycle.exchange is None:
            self.cycle, self._answering = before, None
            return False
        return True

    def _release(self) -> None:
        """Begin with a request that was held back as uvicorn does."""
        body, self._held = self._held, None
        super().on_headers_complete()
        if body:
            super().on_body(body)


class DirectCycle:
    """In place of uvicorn's for a request: what uvicorn's connection asks of it, and sending the answer."""

    __slots__ = ("_connection", "disconnected", "exchange", "keep_alive", "message_event", "response_complete", "scope")

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.exchange: Exchange | None = None
        self.scope = connection.scope
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self.message_event = connection.nobody

    def send(self, status: int, head: bytes, body: bytes) -> None:
        """Send the answer."""
        connection = self._connection
        lines = [STATUS_LINE[status]]
        for name, value in connection.server_state.default_headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(head)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        lines += (b"\r\n", body)
        self.response_complete = True
        transport = connection.transport
        # One that is closed already would raise.
        if not transport.is_closing():
            transport.write(b"".join(lines))
            if not self.keep_alive:
                transport.close()
        connection.answered()
