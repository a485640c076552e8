"""Breaks a request off whose client has gone, or sends its body too slowly."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any

from starlette.types import Receive

from app.api.errors import ClientGone
from app.errors import DeadlineExceeded, RequestTimeout

# Looking costs more than a small request does as a whole, and most are answered sooner.
_PATIENCE_SECONDS = 0.05


class Departure:
    """A context manager around the work on one request; belongs to the task that enters it.

    Its block is cancelled, and ends with

    - RequestTimeout, when `body_came` was not called within the time for the body; or DeadlineExceeded, when it was
      not by the request's deadline;
    - ClientGone, when the client closes the connection after that. (Before, reading the body says so.)
    """

    __slots__ = (
        "_body_seconds",
        "_deadline",
        "_ending",
        "_loop",
        "_receive",
        "_slow",
        "_task",
        "_timer",
        "_waiting",
        "_watch",
    )

    def __init__(self, receive: Receive, body_seconds: float, deadline: float) -> None:
        """`deadline` by `time.monotonic`."""
        self._receive = receive
        self._body_seconds = body_seconds
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        # With the loop at hand it need not be asked for again.
        self._task: asyncio.Task[Any] | None = asyncio.current_task(self._loop)
        self._waiting = False  # for the answer; the body has come
        self._slow = False  # the body has not come within the patience
        self._watch: asyncio.Task[None] | None = None
        self._ending: Exception | None = None

    def __enter__(self) -> Departure:
        # One timer for both: most requests end before it does anything.
        self._timer = self._loop.call_later(
            min(_PATIENCE_SECONDS, self._deadline - time.monotonic(), self._body_seconds), self._begin
        )
        return self

    def body_came(self) -> None:
        """Say that the whole body was read."""
        self._waiting = True
        if self._slow:
            self._timer.cancel()
            self._begin()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._ending is None or self._task is None:
            return
        # As `asyncio.timeout` does: a cancellation of ours ends here, one from outside goes on.
        if self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise self._ending from error

    def _begin(self) -> None:
        if self._waiting:
            self._watch = self._loop.create_task(self._listen())
        else:
            self._slow = True
            left = self._deadline - time.monotonic()
            if left < self._body_seconds:
                late: Exception = DeadlineExceeded("The body was not complete by the request's deadline.")
            else:
                late = RequestTimeout(f"The body was not complete after {self._body_seconds:g} s.")
            self._timer = self._loop.call_later(min(left, self._body_seconds - _PATIENCE_SECONDS), self._end, late)

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._end(ClientGone())

    def _end(self, error: Exception) -> None:
        self._ending = error
        if self._task is not None:
            self._task.cancel()
