"""One call of `classify`, from its admission to its last answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from app.errors import FoveaError
from app.preprocessing import Float32Array

Result = Float32Array | FoveaError


class Ticket:
    """The images of one call, and the place where their answers gather. Belongs to one event loop."""

    def __init__(self, images: Sequence[bytes]) -> None:
        self.images = images
        self._results: list[Result | None] = [None] * len(images)
        self._open = len(images)
        self._done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def settle(self, index: int, result: Result) -> None:
        """Enter the answer to one image; once for each. Of a call that is over, it is dropped."""
        self._results[index] = result
        self._open -= 1
        if self._open == 0 and not self._done.done():
            self._done.set_result(None)

    def fail(self, error: FoveaError) -> None:
        """End the whole call with an error."""
        if not self._done.done():
            self._done.set_exception(error)

    @property
    def over(self) -> bool:
        """Whether nobody waits for answers any more."""
        return self._done.done()

    async def results(self) -> list[Result]:
        """Wait for all answers, in the order of the images. Cancelling this makes the call `over`."""
        await self._done
        return cast(list[Result], self._results)
