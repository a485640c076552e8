"""Small predict requests that came whole, answered without a task, an ASGI message or a wait.

For a small image of a small model, tasks, messages and timers take as long as decoding it. So a connection hands such
a request over as it is; it is checked, and answered from the event loop's next slice of images. Everything is checked
by the same functions as on the ordinary way, through `app.api.predict`. Whatever is not plainly in order takes that
way instead: nothing was done for it here, and there its error is made.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

from starlette.responses import Response

from app.api import security
from app.api.bodies import media_type
from app.api.errors import answer as answer_error
from app.api.errors import internal_error
from app.api.observation import CLIENT_CLOSED_REQUEST, NO_SNIFFING, Notes
from app.api.origin import Origins
from app.api.predict import PATH, TIMEOUT, Predict, Query, is_image, parse_deadline, parse_query, render_answer
from app.api.routes import declared_scopes
from app.api.services import services_of_app
from app.errors import FoveaError, Overloaded
from app.serving.classifier import Answer
from app.serving.visit import Visit

logger = logging.getLogger(__name__)

METHOD = "POST"
# Larger bodies are no small images.
MOST_BYTES = 8192

# Headers that mean more than this way knows of.
_UNUSUAL = frozenset({b"expect", b"transfer-encoding"})
_TIMEOUT = TIMEOUT.encode()
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
        self._scopes = declared_scopes(Predict)
        self._most = min(MOST_BYTES, services.settings.max_body_bytes)

    def begin(self, headers: Headers, query: bytes, body: bytes, send: Send) -> Exchange | None:
        """Take in a request to the predict route, of which all has come; None: it is to go the ordinary way.

        Args:
            headers: names in lower case.
            query: what follows the question mark of the address.
            body: as long as its head says.
            send: called once with the answer: later, unless the exchange is left before; or now, if there is no room.
        """
        begin = time.perf_counter()
        fields = dict(headers)
        if not body or len(body) > self._most or not _holds_image(fields.get(b"content-type", b"")):
            return None
        asked = self._check(fields, headers, query)
        if asked is None:
            return None
        wanted, deadline = asked
        exchange = Exchange(self, send, wanted.top_k, begin, self.notes.identify(fields.get(b"x-request-id")))
        try:
            visit = self.classifier.visit(
                body, exchange.answer, model=wanted.model, version=wanted.version, deadline=deadline
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

    def refuse(self, headers: Headers, query: bytes, send: Send) -> Exchange | None:
        """Turn a request away of which only the head has come, if there is no room for it; else it is to go on.

        Under overload these are the most, and answering them must not take from the others what they need.
        """
        begin = time.perf_counter()
        fields = dict(headers)
        asked = self._check(fields, headers, query)
        if asked is None:
            return None
        wanted, deadline = asked
        try:
            self.classifier.check_admission(model=wanted.model, version=wanted.version, deadline=deadline)
        except Overloaded as error:
            exchange = Exchange(self, send, wanted.top_k, begin, self.notes.identify(fields.get(b"x-request-id")))
            exchange.refuse(error)
            return exchange
        return None

    def _check(self, fields: Mapping[bytes, bytes], headers: Headers, query: bytes) -> tuple[Query, float] | None:
        """What is asked for, and by when; None if anything is not plainly in order."""
        if len(fields) < len(headers) or not _UNUSUAL.isdisjoint(fields):
            return None
        try:
            if self._origins.anonymous:
                self._origins.check(METHOD, fields)
            elif self._scopes is not None:
                security.authorize(self._keys, {"headers": headers}, self._scopes)
            timeout = fields.get(_TIMEOUT)
            deadline = parse_deadline(None if timeout is None else timeout.decode("latin-1"), self._settings)
            return parse_query({"query_string": query}), deadline
        except FoveaError:
            return None


class Exchange:
    """One request and its answer."""

    __slots__ = ("_begin", "_direct", "_send", "_top_k", "request_id", "visit")

    visit: Visit

    def __init__(self, direct: Direct, send: Send, top_k: int, begin: float, request_id: str) -> None:
        self._direct = direct
        self._send: Send | None = send
        self._top_k = top_k
        self._begin = begin
        self.request_id = request_id

    def answer(self, visit: Visit) -> None:
        """Send what came of the visit."""
        begin = time.perf_counter()
        try:
            answer = self._render(visit)
        except Exception:
            logger.exception("Unexpected error", extra={"request_id": self.request_id})
            answer = _lines(internal_error(self.request_id))
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
            body = render_answer(answer, [None], self._top_k, self.request_id)
        except FoveaError as error:
            return self._problem(error)
        return 200, b"content-type: application/json\r\ncontent-length: %d\r\n" % len(body), body

    def _problem(self, error: FoveaError) -> tuple[int, bytes, bytes]:
        return _lines(answer_error(error, {"app": self._direct.app, "fovea.request_id": self.request_id}))

    def _answer(self, status: int, head: bytes, body: bytes) -> None:
        # Let go of the connection's side, which holds this exchange.
        send, self._send = self._send, None
        if send is not None:
            send(status, head + b"x-request-id: " + self.request_id.encode() + b"\r\n" + _SAFE, body)
        self._end(status)

    def _end(self, status: int) -> None:
        seconds = time.perf_counter() - self._begin
        self._direct.notes.end(self.request_id, route=PATH, method=METHOD, status=status, seconds=seconds)


# Clients send the same few.
@lru_cache(maxsize=64)
def _holds_image(content_type: bytes) -> bool:
    return is_image(media_type({"content-type": content_type.decode("latin-1")}))


def _lines(response: Response) -> tuple[int, bytes, bytes]:
    head = b"".join(name + b": " + value + b"\r\n" for name, value in response.raw_headers)
    return response.status_code, head, bytes(response.body)
