"""One request until it has been answered: what is sent, what comes back, and when it is sent again.

Nothing here does input or output. `exchange` yields what is to be done, and is sent what came of it; the two shells,
one that blocks and one that awaits, do it.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from app.client.errors import Problem, Unreachable, problem

T = TypeVar("T")

_LARGEST_TIMEOUT_MS = 999_999_999
_TOO_MANY, _PASSING = 429, frozenset({429, 502, 503, 504})


@dataclass(frozen=True)
class Upload:
    """A file that is sent as a body, piece by piece; `sent` is told how much of how much has gone, in bytes."""

    path: Path
    sent: Callable[[int, int | None], None]


@dataclass(frozen=True)
class Request:
    """A request of the API. At most one of `json`, `body`, `images` and `upload` is set."""

    method: str
    path: str
    """Below /api/v1/."""
    params: Mapping[str, str | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    json: Any = None
    body: bytes | None = None
    images: Sequence[bytes] | None = None
    """Files of a multipart/form-data body."""
    upload: Upload | None = None
    repeatable: bool = False
    """Whether it does no harm to send it again though the server may have done what it asks for already."""
    bounded: bool = False
    """Whether the server is told how long it has (Fovea-Timeout-Ms)."""


@dataclass(frozen=True)
class Reply:
    """An answer."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes

    def document(self) -> Any:
        """The body's JSON; None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None


@dataclass(frozen=True)
class Lost:
    """There was no answer."""

    address: str
    why: str
    arrived: bool
    """Whether the server may have seen the request."""


@dataclass(frozen=True)
class Call(Generic[T]):
    """A request, and what to make of its answer."""

    request: Request
    parse: Callable[[Reply], T]

    def answer(self, reply: Reply) -> T:
        """What the caller gets.

        Raises:
            Problem: the answer is not what a Fovea server gives.
        """
        try:
            return self.parse(reply)
        except (ValidationError, KeyError, TypeError, ValueError) as error:
            detail = f"The answer to {self.request.method} {self.request.path} is not as expected; is it a Fovea server"
            raise Problem(reply.status, "unexpected_answer", f"{detail}, of about this client's release?") from error


@dataclass(frozen=True)
class Pause:
    """Wait, for so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Send:
    """Send the request, with these headers besides its own, and wait no longer than so many seconds."""

    request: Request
    headers: Mapping[str, str]
    seconds: float | None


@dataclass(frozen=True)
class Retries:
    """How often, and after how long, a call is repeated that had no answer, or was turned away for the moment.

    The pause doubles from `first` to `longest` seconds, and is at least what the server asks for (`Retry-After`). Some
    of it is left to chance, so that many clients do not come back at the same moment. `Retries(attempts=1)`: never.
    """

    attempts: int = 8
    first: float = 0.2
    longest: float = 5.0

    def pause(self, attempt: int, retry_after: float) -> float:
        """Seconds to wait after attempt number `attempt`, from 1."""
        usual = min(self.longest, self.first * 2.0 ** min(attempt - 1, 30))
        if retry_after > 0:
            return max(retry_after, usual / 2) + random.uniform(0, usual / 2)  # noqa: S311 - no secret
        return random.uniform(usual / 2, usual)  # noqa: S311


def exchange(request: Request, retries: Retries, timeout: float) -> Generator[Send | Pause, Reply | Lost | None, Reply]:
    """Send, and send again where that may help, until there is an answer that is no error; returns it.

    Args:
        request: what is sent.
        retries: how often.
        timeout: seconds for all of it, pauses included; `math.inf` for no end.

    Raises:
        ValueError: there is no time at all.
        Problem: the server's last word is an error.
        Unreachable: there was no answer to the last attempt.
    """
    if not timeout > 0:  # NaN too
        raise ValueError(f"timeout={timeout} is not allowed. Allowed: seconds, more than 0.")
    deadline = time.monotonic() + timeout
    attempt = 0
    while True:
        attempt += 1
        outcome = yield _send(request, deadline)
        if isinstance(outcome, Reply) and 200 <= outcome.status < 300:
            return outcome
        assert outcome is not None
        pause = retries.pause(attempt, retry_after(outcome) if isinstance(outcome, Reply) else 0.0)
        if not _may_repeat(request, outcome) or attempt >= retries.attempts or time.monotonic() + pause >= deadline:
            raise error_of(outcome)
        yield Pause(pause)


def error_of(outcome: Reply | Lost) -> Problem | Unreachable:
    """The error for what is no answer, or an error."""
    if isinstance(outcome, Lost):
        return Unreachable(outcome.address, outcome.why)
    return problem(outcome.status, outcome.document())


def retry_after(reply: Reply) -> float:
    """Seconds that the server asks for; 0 if it does not, or not in a way that can be read."""
    text = reply.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _send(request: Request, deadline: float) -> Send:
    if deadline == math.inf:
        return Send(request, {}, None)
    left = max(0.001, deadline - time.monotonic())
    if not request.bounded:
        return Send(request, {}, left)
    milliseconds = min(_LARGEST_TIMEOUT_MS, math.ceil(left * 1000))
    # A second more than the server has, so that it is the one who says that it took too long.
    return Send(request, {"Fovea-Timeout-Ms": str(milliseconds)}, left + 1)


def _may_repeat(request: Request, outcome: Reply | Lost) -> bool:
    if isinstance(outcome, Lost):
        return request.repeatable or not outcome.arrived
    # What was turned away for lack of room has not been begun; with the others one cannot know.
    return outcome.status == _TOO_MANY or (request.repeatable and outcome.status in _PASSING)
