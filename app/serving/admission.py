"""How many images may be in the house at a time."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from app.errors import InvalidRequest, Overloaded
from app.metrics import Metrics


class Admission:
    """Counts images from before they are decoded until they are answered. Belongs to one event loop."""

    def __init__(self, limit: int, metrics: Metrics, retry_after: Callable[[], float]) -> None:
        """`limit`: images, of all models together. `retry_after` says in how many seconds there will be room."""
        self._limit = limit
        self._metrics = metrics
        self._retry_after = retry_after
        self._inside = 0

    def check(self, images: int = 1) -> None:
        """Whether so many would be let in now: to be asked before their bytes are read.

        It holds no place: a client that is slow in sending must not keep others out.

        Raises:
            InvalidRequest: so many never fit.
            Overloaded: so many do not fit now.
        """
        if images > self._limit:
            raise InvalidRequest(f"{images} images in one request; at most {self._limit} are allowed.")
        if self._inside + images > self._limit:
            raise self.refusal(
                f"The queue is full: {self._inside} of {self._limit} images are waiting or running.", images
            )

    def enter(self, images: int) -> Places:
        """Places for images, given back at the end of the `with` block; errors as of `check`."""
        self.check(images)
        self.change(images)
        return Places(self.change, images)

    def refusal(self, why: str, images: int) -> Overloaded:
        """The error that turns so many images away; they are counted."""
        self._metrics.rejected(Overloaded.code, images)
        wait = self._retry_after()
        return Overloaded(f"{why} Try again in {wait:.1f} s.", retry_after=wait)

    def change(self, images: int) -> None:
        """Note that so many images came in, for which there was room, or, negative, went."""
        self._inside += images
        self._metrics.in_flight(images)


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
