"""What all bodies together may take of the memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.errors import Overloaded, PayloadTooLarge
from app.metrics import Metrics


class Budget:
    """Bounds what all bodies that are held at a time may take together; belongs to one event loop.

    The cap on one body alone would let a few hundred slow clients fill the memory.
    """

    def __init__(self, size: int, metrics: Metrics, retry_after: Callable[[], float]) -> None:
        """`size` in bytes; `retry_after`: seconds after which one that is refused had better come back."""
        self._size = size
        self._metrics = metrics
        self._retry_after = retry_after
        self.used = 0
        """Bytes that are held now."""

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Yields what takes bytes out of the budget; all of them go back at the end of the block.

        Taking more than there is left raises Overloaded; more than there is for all, PayloadTooLarge.
        """
        taken = 0

        def take(size: int) -> None:
            nonlocal taken
            if taken + size > self._size:
                # To come back does not help.
                raise PayloadTooLarge(
                    f"The request would take {taken + size} bytes of memory to be read; {self._size} are there. Send "
                    "less in one request, or images as files and tensors as binary instead of numbers in JSON."
                )
            if self.used + size > self._size:
                self._metrics.rejected(Overloaded.code)
                wait = self._retry_after()
                raise Overloaded(f"Too many large requests are under way. Try again in {wait:.1f} s.", retry_after=wait)
            self.used += size
            taken += size

        try:
            yield take
        finally:
            self.used -= taken
