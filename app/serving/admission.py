"""How many images may be in the house at a time, and which are turned away at the door since they would be too late."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from types import TracebackType

from app.errors import InvalidRequest, Overloaded
from app.metrics import Metrics

# Capacity is measured over one to two windows of this many seconds at full work: long enough to be steady, short
# enough to follow the load.
_WINDOW = 2.5
# Fewer answers than these say little about the rate.
_ANSWERS = 20
_SHORTEST, _UNKNOWN, _LONGEST = 0.1, 1.0, 60.0


class Admission:
    """Counts images from before they are decoded until they are answered. Belongs to one event loop."""

    def __init__(self, limit: int, metrics: Metrics, *, saturated: int = 4) -> None:
        """`saturated`: with so many images inside, the house works at its capacity."""
        self._limit = limit
        self._metrics = metrics
        self._saturated = saturated
        self._inside = 0
        self._capacity = _Capacity(saturated)

    def check(self, images: int = 1, *, deadline: float = math.inf) -> None:
        """Whether so many would be let in now: to be asked before their bytes are read.

        It holds no place: a client that is slow in sending must not keep others out.

        Args:
            images: how many.
            deadline: by `time.monotonic`.

        Raises:
            InvalidRequest: so many never fit.
            Overloaded: so many do not fit now, or would not be answered before the deadline.
        """
        if images > self._limit:
            raise InvalidRequest(f"{images} images in one request; at most {self._limit} are allowed.")
        inside = self._inside + images
        if inside > self._limit:
            self._refuse(f"The queue is full: {self._inside} of {self._limit} images are waiting or running.", images)
        # With less inside than that the capacity that was measured once says nothing, and nobody has to wait.
        if deadline < math.inf and inside > self._saturated:
            wait = self._capacity.seconds_for(inside)
            left = deadline - time.monotonic()
            if wait is not None and wait > left:
                self._refuse(
                    f"The answer would take {wait:.1f} s, with {self._inside} images before it, and the request allows "
                    f"{max(left, 0):.1f} s.",
                    images,
                )

    def enter(self, images: int, *, deadline: float = math.inf) -> Places:
        """Places for images, given back at the end of the `with` block; arguments and errors as of `check`."""
        self.check(images, deadline=deadline)
        self._change(images)
        return Places(self._change, images)

    def retry_after(self) -> float:
        """Seconds in which what is inside now will have been answered."""
        wait = self._capacity.seconds_for(self._inside)
        return _UNKNOWN if wait is None else min(max(wait, _SHORTEST), _LONGEST)

    def _change(self, images: int) -> None:
        self._capacity.change(self._inside, images)
        self._inside += images
        self._metrics.in_flight(images)

    def _refuse(self, why: str, images: int) -> None:
        self._metrics.rejected(Overloaded.code, images)
        wait = self.retry_after()
        raise Overloaded(f"{why} Try again in {wait:.1f} s.", retry_after=wait)


class Places:
    """What one call holds of the places; a context manager."""

    __slots__ = ("_change", "_images")

    def __init__(self, change: Callable[[int], None], images: int) -> None:
        self._change = change
        self._images = images

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._change(-self._images)


class _Capacity:
    """Images answered in a second while there was enough to do, over the last two windows of such time.

    Answers at other times say how much was asked, not how much could have been answered.
    """

    def __init__(self, saturated: int) -> None:
        self._saturated = saturated
        self._since = 0.0  # since when the house is saturated, or was last looked at
        self._answers = self._answers_before = 0
        self._seconds = self._seconds_before = 0.0

    def change(self, inside: int, images: int) -> None:
        """Note that `images` come (or, negative, leave) while there are `inside`."""
        if inside < self._saturated:
            if inside + images >= self._saturated:
                self._since = time.monotonic()
            return
        now = time.monotonic()
        self._seconds += now - self._since
        self._since = now
        if images < 0:
            self._answers -= images
        if self._seconds > _WINDOW:
            self._answers_before, self._seconds_before = self._answers, self._seconds
            self._answers, self._seconds = 0, 0.0

    def seconds_for(self, images: int) -> float | None:
        """Time in which so many are answered; None if the capacity is not known."""
        answers = self._answers + self._answers_before
        if answers < _ANSWERS:
            return None
        return images * (self._seconds + self._seconds_before) / answers
