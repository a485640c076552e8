"""uvicorn's connection, with a direct way for small predict requests that come in one piece."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from app.api.direct import MOST_BYTES, Direct, Exchange
from app.api.predict import PATH

_PATH = PATH.encode()
# Of a query that needs no decoding.
_ADDRESS = re.compile(re.escape(_PATH) + rb"(?:\?([A-Za-z0-9_.=&-]*))?")


class Connection(HttpToolsProtocol):
    """A connection. The head of a request that may go the direct way is held back until its body has come, which is
    mostly in the same piece; if it has not, or if the request is not for that way, it goes uvicorn's."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any], *, direct: Direct) -> None:
        super().__init__(config, server_state, app_state)
        self._direct = direct
        self.nobody = asyncio.Event()
        """For what uvicorn would wake and is not there."""
        self._held: bytes | None = None
        """What has come of the body of a request whose head is held back."""

    def data_received(self, data: bytes) -> None:
        """Take in what the client sent."""
        super().data_received(data)
        if self._held is not None and not self.transport.is_closing():
            self._release()

    def on_headers_complete(self) -> None:
        """Hold the head back, or begin with the request."""
        # By length first, which tells most others apart.
        if len(self.url) >= len(_PATH) and self.url.startswith(_PATH) and self._may_be_direct():
            self._held = b""
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the body."""
        if self._held is None:
            super().on_body(body)
        else:
            self._held += body
            if len(self._held) > MOST_BYTES:
                self._release()

    def on_message_complete(self) -> None:
        """Begin with a request that was held back."""
        body = self._held
        if body is not None:
            if self._begin(body):
                self._held = None
                return
            self._release()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Give up what is not answered."""
        cycle = self.cycle
        if isinstance(cycle, DirectCycle) and not cycle.response_complete:
            cycle.exchange.leave()
        super().connection_lost(exc)

    def _may_be_direct(self) -> bool:
        return (
            self._direct.open
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.root_path
            and (self.cycle is None or self.cycle.response_complete)
            and not self.flow.write_paused
            and _ADDRESS.fullmatch(self.url) is not None
        )

    def _begin(self, body: bytes) -> bool:
        """Whether the request goes the direct way."""
        cycle = DirectCycle(self)
        # Before it begins, since it may end at once.
        before, self.cycle = self.cycle, cycle  # type: ignore[assignment]  # it has what uvicorn asks of one
        exchange = self._direct.begin(self.headers, self.url[len(_PATH) + 1 :], body, cycle.send)
        if exchange is None:
            self.cycle = before
            return False
        cycle.exchange = exchange
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

    exchange: Exchange

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
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
        connection.transport.write(b"".join(lines))
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()
