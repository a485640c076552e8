"""How fast an engine answers when it has enough to do: what tells how long who comes now will have to wait."""

from __future__ import annotations

import time

# Measured over one to two windows of this many seconds of full work or more: long enough to be steady, short enough to
# follow what else the machine does.
_WINDOW = 2.5
# Fewer answers than these say little about the rate.
_ANSWERS = 20


class Pace:
    """Images answered in a second of full work. Belongs to one event loop.

    Answers at other times say how much was asked, not how much could have been answered; and what was given up says
    nothing, since giving up takes no time.
    """

    def __init__(self, saturated: int, expected: float | None = None) -> None:
        """A pace that is not known yet.

        Args:
            saturated: with so many images inside, there is enough to do.
            expected: seconds an image that are taken for granted until enough was measured.
        """
        self._saturated = saturated
        self._expected = expected
        self.inside = 0
        """Images that wait or are at work."""
        self._since = 0.0  # since when there is enough to do, or when that was last looked at
        self._answers = self._answers_before = 0
        self._seconds = self._seconds_before = 0.0

    def come(self, images: int) -> None:
        """Note that so many images wait from now on."""
        self._work()
        if self.inside < self._saturated <= self.inside + images:
            self._since = time.monotonic()
        self.inside += images

    def go(self, images: int, *, answered: bool) -> None:
        """Note that so many images no longer wait, since they were answered or given up."""
        self._work(images if answered else 0)
        self.inside -= images

    def wait(self, images: int = 0) -> float | None:
        """Seconds until what is inside, and so many more, will have been answered.

        None if that is not known, or if there is no more than can be worked on at once.
        """
        inside = self.inside + images
        answers = self._answers + self._answers_before
        if inside <= self._saturated:
            return None
        if answers < _ANSWERS:
            return None if self._expected is None else inside * self._expected
        return inside * (self._seconds + self._seconds_before) / answers

    def _work(self, answers: int = 0) -> None:
        """Enter the time and the answers since the last look, if there was enough to do."""
        if self.inside < self._saturated:
            return
        now = time.monotonic()
        self._seconds += now - self._since
        self._since = now
        self._answers += answers
        if self._seconds > _WINDOW and self._answers >= _ANSWERS:
            self._answers_before, self._seconds_before = self._answers, self._seconds
            self._answers, self._seconds = 0, 0.0
