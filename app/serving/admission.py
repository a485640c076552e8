"""How many images may be in the house at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import InvalidRequest, Overloaded
from app.metrics import Metrics

# The rate of answers is taken over this many seconds: long enough to be steady, short enough to follow the load.
_WINDOW = 5.0
_SHORTEST, _UNKNOWN, _LONGEST = 0.1, 1.0, 60.0


class Admission:
    """Counts images from before they are decoded until they are answered. Belongs to one event loop."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._metrics = metrics
        self._inside = 0
        self._left: deque[tuple[float, int]] = deque(maxlen=1024)  # when, and how many images

    @contextmanager
    def places(self, images: int) -> Iterator[None]:
        """Hold places for images during the block.

        Raises:
            InvalidRequest: so many never fit.
            Overloaded: so many do not fit now.
        """
        if images > self._limit:
            raise InvalidRequest(f"{images} images in one request; at most {self._limit} are allowed.")
        if self._inside + images > self._limit:
            self._metrics.rejected(Overloaded.code, images)
            wait = self.retry_after()
            raise Overloaded(
                f"The queue is full: {self._inside} of {self._limit} images are waiting or running. "
                f"Try again in {wait:.1f} s.",
                retry_after=wait,
            )
        self._inside += images
        self._metrics.in_flight(images)
        try:
            yield
        finally:
            self._inside -= images
            self._metrics.in_flight(-images)
            self._left.append((time.monotonic(), images))

    def retry_after(self) -> float:
        """Seconds in which what is inside now will have been answered, at the rate of the last seconds."""
        now = time.monotonic()
        while self._left and self._left[0][0] < now - _WINDOW:
            self._left.popleft()
        if not self._left:
            return _UNKNOWN
        answered = sum(images for _, images in self._left)
        # A burst of answers within an instant says little about the rate.
        seconds = max(now - self._left[0][0], _SHORTEST)
        return min(max(self._inside * seconds / answered, _SHORTEST), _LONGEST)
