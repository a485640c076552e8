"""A queue in which each owner gets a turn: a request of one image does not wait behind one of hundreds."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each owner; round-robin over the owners. Belongs to one event loop.

    It is not bounded: what enters it was admitted before.
    """

    def __init__(self) -> None:
        self._waiting: OrderedDict[Hashable, deque[T]] = OrderedDict()
        self._takers: deque[asyncio.Future[None]] = deque()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, owner: Hashable, item: T) -> None:
        """Add an item; a new owner's turn comes after those that already wait."""
        self._waiting.setdefault(owner, deque()).append(item)
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(None)
                break

    async def take(self, limit: int = 1) -> list[T]:
        """Wait for an item, then take as many as there are, at most `limit`, one owner after the other."""
        while not self._waiting:
            taker = asyncio.get_running_loop().create_future()
            self._takers.append(taker)
            await taker
        taken: list[T] = []
        while self._waiting and len(taken) < limit:
            owner, items = self._waiting.popitem(last=False)
            taken.append(items.popleft())
            if items:
                self._waiting[owner] = items
        return taken

    def discard(self, owner: Hashable) -> None:
        """Drop all that an owner has waiting."""
        self._waiting.pop(owner, None)
