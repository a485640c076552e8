"""One call of `classify`, from its admission to its last answer."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from typing import cast

from app.errors import DeadlineExceeded, FoveaError
from app.preprocessing import Float32Array

Result = Float32Array | FoveaError
Stage = tuple[str, float, float]
"""What was done, and when it began and ended by `time.perf_counter`."""


class Ticket:
    """The images of one call, and the place where their answers gather.

    Belongs to one event loop, but for `over`, `expired` and `begin`, which the lanes of an engine use.
    """

    __slots__ = ("_begun", "_done", "_open", "_results", "deadline", "images", "over", "since", "stages")

    def __init__(
        self, images: Sequence[bytes], *, deadline: float = math.inf, stages: list[Stage] | None = None
    ) -> None:
        """A call that begins now.

        Args:
            images: encoded files.
            deadline: by `time.monotonic`; what was not begun by then never is.
            stages: grows by what is done for the call, if it is there.
        """
        self.images = images
        self.deadline = deadline
        self.stages = stages
        self.since = time.perf_counter()
        self.over = False
        """Whether nobody waits for answers any more. Only ever goes from false to true."""
        self._begun = 0
        self._results: list[Result | None] = [None] * len(images)
        self._open = len(images)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def waiting(self) -> int:
        """Images that no lane has begun."""
        return len(self.images) - self._begun

    def begin(self, most: int) -> range:
        """Take the next images, at most so many. Only for the lane that took the ticket out of the queue."""
        first = self._begun
        self._begun = min(first + most, len(self.images))
        return range(first, self._begun)

    def restart(self) -> None:
        """Have `begin` start over: nothing of what was begun came to an end."""
        self._begun = 0

    def expired(self, now: float) -> bool:
        """Whether the deadline has passed at `now`, by `time.monotonic`."""
        return now > self.deadline

    def settle(self, index: int, result: Result) -> None:
        """Enter the answer to one image; once for each. Of a call that is over, it is dropped."""
        self._results[index] = result
        self._open -= 1
        if self._open == 0 and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: FoveaError) -> None:
        """End the whole call with an error."""
        self.over = True
        if not self._done.done():
            self._done.set_exception(error)

    async def results(self) -> list[Result]:
        """Wait for all answers, in the order of the images. However it ends, the call is `over` then."""
        timer = None
        if self.deadline < math.inf:
            timer = asyncio.get_running_loop().call_later(self.deadline - time.monotonic(), self._expire)
        try:
            await self._done
        finally:
            self.over = True
            if timer is not None:
                timer.cancel()
        return cast(list[Result], self._results)

    def _expire(self) -> None:
        self.fail(DeadlineExceeded("There was no answer by the request's deadline; it was given up."))
