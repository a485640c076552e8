"""What all ways to ask for answers have in common: a route's own, and those of other servers' protocols.

A way parses a request and renders its answer, and does nothing else. `app.api.answering` and, for small requests that
come whole, `app.api.direct` do the rest alike for all of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from starlette.responses import Response
from starlette.routing import compile_path
from starlette.types import Scope as ASGIScope

from app.api.security import Scope
from app.errors import FoveaError
from app.serving.classifier import Answer
from app.serving.tensors import Image

JSON = b"application/json"

_PLAIN = re.compile(rb"[A-Za-z0-9_.:/-]{1,512}")
_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class Head:
    """A request before its body."""

    path: Mapping[str, str]
    """Values of the places in the path's template."""
    query: bytes
    """What follows the question mark."""
    headers: Mapping[str, str]
    """Names in lower case."""
    most: int
    """Images that a request may have."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer of status 200."""

    body: bytes
    media_type: bytes = JSON
    headers: Sequence[tuple[bytes, bytes]] = ()
    """Others than its type and length."""

    def head(self) -> list[tuple[bytes, bytes]]:
        """All headers."""
        return [(b"content-type", self.media_type), (b"content-length", b"%d" % len(self.body)), *self.headers]


class Inquiry(Protocol):
    """One request, as its way reads it. Belongs to it alone, so that it may keep what it needs to render the answer."""

    @property
    def model(self) -> str | None:
        """None: the default model."""

    @property
    def version(self) -> int | Literal["production"]: ...

    def images(self, body: bytes) -> Sequence[Image]:
        """The images of the body; called once. May run in a thread, where the body is large.

        Raises:
            PayloadTooLarge: there are more than the head allows.
            FoveaError: what else is wrong with the body.
        """

    def render(self, answer: Answer, request_id: str) -> Reply:
        """The answer as the protocol has it.

        Raises:
            FoveaError: the protocol knows no answers in part, and an image has none.
        """


class Failures(Protocol):
    """How a protocol renders errors."""

    def answer(self, error: FoveaError, scope: ASGIScope) -> Response:
        """One of the domain's, counted and logged as `app.api.errors.answer` does."""

    def internal(self, request_id: str | None) -> Response:
        """A fault of ours, of which nothing is said but the id under which the log has it."""


@dataclass(frozen=True)
class Way:
    """How one route asks for answers. All are POST."""

    template: str
    """Of the path, with places: `/v1/models/{model}:predict`."""
    begin: Callable[[Head], Inquiry]
    """Reads a head; raises what is wrong with it, as a FoveaError."""
    failures: Failures
    weight: Callable[[Head, bytes], int] | None = None
    """Bytes of memory that a body may take, besides its own, when it is parsed; None: it is not parsed."""
    patience: Callable[[Any], float | None] | None = None
    """Given an inquiry whose body was read: within how many seconds the body asks for its answer, if it says so."""
    scopes: frozenset[Scope] = frozenset({"predict"})

    def earlier(self, deadline: float, inquiry: Inquiry) -> float:
        """The deadline of a request whose body was read, by `time.monotonic`, given that of its head."""
        if self.patience is None or (seconds := self.patience(inquiry)) is None:
            return deadline
        return min(deadline, time.monotonic() + seconds)


class Ways:
    """Finds the way of a path."""

    def __init__(self, ways: Sequence[Way]) -> None:
        self._ways = [(compile_path(way.template)[0], way) for way in ways]
        self._found: dict[bytes, tuple[Way, Mapping[str, str]] | None] = {}

    def find(self, path: bytes) -> tuple[Way, Mapping[str, str]] | None:
        """The way, and the values of the places in its template; None if there is none, or the path has to be decoded
        to be read."""
        try:
            return self._found[path]
        except KeyError:
            pass
        found = None
        if _PLAIN.fullmatch(path):
            text = path.decode("ascii")
            found = next(((way, match.groupdict()) for regex, way in self._ways if (match := regex.match(text))), None)
        # Clients call the same few; whoever calls many others shall not fill the memory.
        if len(self._found) < _REMEMBERED:
            self._found[path] = found
        return found
