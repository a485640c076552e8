"""How many images are answered on the event loop at a time, before others have their turn."""

from __future__ import annotations


class Slices:
    """A number of images that takes about so long, by what the last ones took. Belongs to one event loop.

    What was measured when the version was loaded is a beginning only: the machine may have been busy then, or be now.
    Always a power of two, since engines are prepared for batches of these sizes.
    """

    def __init__(self, seconds: float, *, expected: float, most: int) -> None:
        """A slice is to take `seconds`; one image is expected to take `expected`, and there are never more than
        `most`."""
        self._seconds = seconds
        self._most = most
        self.images = self._fitting(expected)
        """In the next slice."""

    def took(self, images: int, seconds: float) -> None:
        """Learn from a slice. One that was not full says nothing: its images cost more each."""
        if images >= self.images and seconds > 0:
            # One that was interrupted, or for once was not, shall not count for more than it should.
            self.images = min(max(self._fitting(seconds / images), self.images // 2), self.images * 2)

    def _fitting(self, seconds_per_image: float) -> int:
        fitting = min(self._seconds / max(seconds_per_image, 1e-6), self._most)
        return 1 << (max(1, int(fitting)).bit_length() - 1)
