"""Small requests for an answer that came whole, answered without a task, an ASGI message or a wait.

For a small image of a small model, tasks, messages and timers take as long as decoding it. So a connection hands such
a request over as it is; it is checked, and answered from the event loop's next slice of images. Everything is checked
by the same functions as by ASGI, those of the request's way (`app.api.ways`). Whatever is not plainly in order goes by
ASGI: nothing was done for it here, and there its error is made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from starlette.responses import Response

from app.api import security
from app.api.deadlines import TIMEOUT, parse_deadline
from app.api.observation import CLIENT_CLOSED_REQUEST, NO_SNIFFING, Notes
from app.api.origin import Origins
from app.api.services import services_of_app
from app.api.ways import Head, Inquiry, Way, Ways
from app.errors import FoveaError, Overloaded
from app.serving.classifier import Answer
from app.serving.visit import Visit

logger = logging.getLogger(__name__)

METHOD = "POST"
# Larger bodies are no small images.
MOST_BYTES = 8192

# Headers that mean more than this way knows of.
_UNUSUAL = frozenset({b"expect", b"transfer-encoding"})
_SAFE = b": ".join(NO_SNIFFING) + b"\r\n"

Headers = list[tuple[bytes, bytes]]


class Send(Protocol):
    """Sends an answer: its status, the lines of its headers, each with its end, and its body."""

    def __call__(self, status: int, head: bytes, body: bytes) -> None: ...


class Direct:
    """The way of one application."""

    def __init__(self, app: Any) -> None:
        """`app`: made by `app.main`."""
        services = services_of_app(app)
        self.open = services.tracing is None
        """Whether requests may come this way at all."""
        self.app = app
        self.notes = Notes(services)
        self.classifier = services.classifier
        self._settings = services.settings
        self._keys = services.keys
        self._origins = Origins(services)
        self.ways = Ways(app.ways)
        """By path."""
        self._most = min(MOST_BYTES, services.settings.max_body_bytes)

    def begin(
        self, way: Way, path: Mapping[str, str], *, headers: Headers, query: bytes, body: bytes, send: Send
    ) -> Exchange | None:
        """Take in a request of which all has come; None: it is to go the ordinary way.

        Args:
            path: values of the places in the way's template.
            headers: names in lower case.
            query: what follows the question mark of the address.
            body: as long as its head says.
            send: called once with the answer: later, unless the exchange is left before; or now, if there is no room.
        """
        begin = time.perf_counter()
        if not body or len(body) > self._most:
            return None
        asked = self._check(way, path, headers, query)
        if asked is None:
            return None
        inquiry, deadline, offered = asked
        try:
            images = inquiry.images(body)
        except FoveaError:
            return None
        if len(images) != 1:
            return None
        exchange = Exchange(self, way, inquiry, send, begin, self.notes.identify(offered))
        try:
            visit = self.classifier.visit(
                images[0],
                exchange.answer,
                model=inquiry.model,
                version=inquiry.version,
                deadline=way.earlier(deadline, inquiry),
            )
        except Overloaded as error:
            exchange.refuse(error)
            return exchange
        if visit is None:
            return None
        exchange.visit = visit
        metrics = self.notes.metrics
        metrics.stage("admission", time.perf_counter() - begin)
        metrics.stage("read", 0.0)
        return exchange

    def refuse(
        self, way: Way, path: Mapping[str, str], *, headers: Headers, query: bytes, send: Send
    ) -> Exchange | None:
        """Turn a request away of which only the head has come, if there is no room for it; else it is to go on.

        Under overload these are the most, and answering them must not take from the others what they need.
        """
        begin = time.perf_counter()
        asked = self._check(way, path, headers, query)
        if asked is None:
            return None
        inquiry, deadline, offered = asked
        try:
            self.classifier.check_admission(model=inquiry.model, version=inquiry.version, deadline=deadline)
        except Overloaded as error:
            exchange = Exchange(self, way, inquiry, send, begin, self.notes.identify(offered))
            exchange.refuse(error)
            return exchange
        return None

    def _check(
        self, way: Way, path: Mapping[str, str], headers: Headers, query: bytes
    ) -> tuple[Inquiry, float, bytes | None] | None:
        """What is asked for, by when, and the id that the client offers; None if anything is not plainly in order."""
        fields = dict(headers)
        if len(fields) < len(headers) or not _UNUSUAL.isdisjoint(fields):
            return None
        try:
            if self._origins.anonymous:
                self._origins.check(METHOD, fields)
            security.authorize(self._keys, {"headers": headers}, way.scopes, anonymous=self._settings.anonymous)
            names = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
            deadline = parse_deadline(names.get(TIMEOUT), self._settings)
            return way.begin(Head(path, query, names, self._settings.max_files)), deadline, fields.get(b"x-request-id")
        except FoveaError:
            return None


class Exchange:
    """One request and its answer."""

    __slots__ = ("_begin", "_direct", "_inquiry", "_send", "_way", "request_id", "visit")

    visit: Visit

    def __init__(self, direct: Direct, way: Way, inquiry: Inquiry, send: Send, begin: float, request_id: str) -> None:
        self._direct = direct
        self._way = way
        self._inquiry = inquiry
        self._send: Send | None = send
        self._begin = begin
        self.request_id = request_id

    def answer(self, visit: Visit) -> None:
        """Send what came of the visit."""
        begin = time.perf_counter()
        try:
            answer = self._render(visit)
        except Exception:
            logger.exception("Unexpected error", extra={"request_id": self.request_id})
            answer = _lines(self._way.failures.internal(self.request_id))
        self._answer(*answer)
        self._direct.notes.metrics.stage("render", time.perf_counter() - begin)

    def refuse(self, error: FoveaError) -> None:
        """Send an error that there was before a visit."""
        self._direct.notes.metrics.stage("admission", time.perf_counter() - self._begin)
        self._answer(*self._problem(error))

    def leave(self) -> None:
        """The client has gone before it was answered."""
        self.visit.leave()
        self._direct.notes.metrics.rejected("client_gone")
        self._end(CLIENT_CLOSED_REQUEST)

    def _render(self, visit: Visit) -> tuple[int, bytes, bytes]:
        assert visit.result is not None
        answer = Answer.of(visit.engine.loaded, [visit.result])
        try:
            reply = self._inquiry.render(answer, self.request_id)
        except FoveaError as error:
            return self._problem(error)
        return 200, _head(reply.head()), reply.body

    def _problem(self, error: FoveaError) -> tuple[int, bytes, bytes]:
        return _lines(self._way.failures.answer(error, {"app": self._direct.app, "fovea.request_id": self.request_id}))

    def _answer(self, status: int, head: bytes, body: bytes) -> None:
        # Let go of the connection's side, which holds this exchange.
        send, self._send = self._send, None
        if send is not None:
            send(status, head + b"x-request-id: " + self.request_id.encode() + b"\r\n" + _SAFE, body)
        self._end(status)

    def _end(self, status: int) -> None:
        seconds = time.perf_counter() - self._begin
        self._direct.notes.end(self.request_id, route=self._way.template, method=METHOD, status=status, seconds=seconds)


def _lines(response: Response) -> tuple[int, bytes, bytes]:
    return response.status_code, _head(response.raw_headers), bytes(response.body)


def _head(headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join(name + b": " + value + b"\r\n" for name, value in headers)
