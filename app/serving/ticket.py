"""One call of `classify`, from its admission to its last answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import cast

from app.errors import DeadlineExceeded, FoveaError
from app.preprocessing import Float32Array
from app.serving.tensors import Image

_log = logging.getLogger(__name__)

Result = Float32Array | FoveaError
Stage = tuple[str, float, float]
"""What was done, and when it began and ended by `time.perf_counter`."""


class Ticket:
    """The images of one call, and the place where their answers gather.

    Belongs to one event loop, but for `image`, `over`, `expired`, `waiting` and `begin`, which the lanes of an engine
    use.
    """

    __slots__ = (
        "_begun",
        "_done",
        "_images",
        "_loop",
        "_open",
        "_results",
        "count",
        "deadline",
        "over",
        "since",
        "stages",
    )

    def __init__(
        self,
        images: Sequence[Image],
        *,
        loop: asyncio.AbstractEventLoop,
        deadline: float = math.inf,
        stages: list[Stage] | None = None,
    ) -> None:
        """A call that begins now.

        Args:
            images: encoded files or tensors.
            loop: the event loop that it belongs to, which is costly to ask for.
            deadline: by `time.monotonic`; what was not begun by then never is.
            stages: grows by what is done for the call, if it is there.
        """
        self.count = len(images)
        self.deadline = deadline
        self.stages = stages
        self.since = time.perf_counter()
        self.over = False
        """Whether nobody waits for answers any more. Only ever goes from false to true."""
        self._images: Sequence[Image] | None = images
        self._loop = loop
        self._begun = 0
        self._results: list[Result | None] = [None] * self.count
        self._open = self.count
        self._done: asyncio.Future[None] = loop.create_future()

    @property
    def waiting(self) -> int:
        """Images that no lane has begun."""
        return self.count - self._begun

    def begin(self, most: int) -> list[tuple[Ticket, int]]:
        """Take the next images, at most so many. Only for the lane that took the ticket out of the queue."""
        first = self._begun
        self._begun = min(first + most, self.count)
        return [(self, index) for index in range(first, self._begun)]

    def image(self, index: int) -> Image | None:
        """The image; None once the call is over."""
        images = self._images
        return None if images is None else images[index]

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
        self.abandon()
        if not self._done.done():
            self._done.set_exception(error)

    def abandon(self) -> None:
        """Say that nobody waits for answers any more."""
        self.over = True
        # The queue may hold the ticket for a while yet, and what it takes is no longer counted anywhere.
        self._images = None

    async def results(self) -> list[Result]:
        """Wait for all answers, in the order of the images. However it ends, the call is `over` then."""
        timer = None
        if self.deadline < math.inf:
            timer = self._loop.call_later(self.deadline - time.monotonic(), self._expire)
        try:
            await self._done
        finally:
            self.abandon()
            if timer is not None:
                timer.cancel()
        return cast(list[Result], self._results)

    def _expire(self) -> None:
        self.fail(too_late())


class Lone(Ticket):
    """A call of one image whose answer goes to a function at once: no task waits for it, and a timer watches it only
    where it must."""

    __slots__ = ("_then", "_timer")

    def __init__(
        self, image: Image, then: Callable[[Result], None], *, loop: asyncio.AbstractEventLoop, deadline: float
    ) -> None:
        """`then` is called once, on the event loop, with the answer or the error that ended the call, unless it was
        abandoned; the others as of `Ticket`."""
        super().__init__((image,), loop=loop, deadline=deadline)
        self._then: Callable[[Result], None] | None = then
        self._timer: asyncio.TimerHandle | None = None

    def abandon(self) -> None:
        """Say that nobody waits for the answer any more."""
        super().abandon()
        # Left alone the event loop would hold this call until its deadline.
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def settle(self, index: int, result: Result) -> None:
        """Hand the answer over."""
        # Whoever is told holds this call in turn: let go, or only the garbage collector would ever free the two.
        then, self._then = self._then, None
        if then is not None and not self.over:
            self.abandon()
            try:
                then(result)
            # The event loop's slice has other calls to answer.
            except Exception:
                _log.exception("an answer could not be handed over")

    def fail(self, error: FoveaError) -> None:
        """End the call with an error."""
        self.settle(0, error)

    def fail_in_time(self) -> None:
        """From now on have a timer end it at its deadline, since it waits where nobody may look at it before."""
        if self.deadline < math.inf:
            self._timer = self._loop.call_later(self.deadline - time.monotonic(), self._expire)


def too_late() -> DeadlineExceeded:
    """The error of a call whose deadline has passed."""
    return DeadlineExceeded("There was no answer by the request's deadline; it was given up.")
