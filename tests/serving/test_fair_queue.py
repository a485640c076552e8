"""The queue in which each owner gets a turn."""

from __future__ import annotations

import asyncio

import pytest

from app.serving.fair_queue import FairQueue


async def test_owners_take_turns_and_keep_their_own_order() -> None:
    """A late owner's first item comes right after one of each of the others."""
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.put(item[0], item)
    assert await queue.take(4) == ["a1", "b1", "c1", "a2"]
    queue.put("d", "d1")
    assert len(queue) == 3
    assert await queue.take(9) == ["b2", "a3", "d1"]


async def test_taking_waits_for_an_item_and_no_longer() -> None:
    """One is enough, however many were asked for."""
    queue: FairQueue[int] = FairQueue()
    taking = asyncio.create_task(queue.take(10))
    await asyncio.sleep(0)
    assert not taking.done()
    queue.put("a", 1)
    assert await taking == [1]


async def test_every_waiting_taker_gets_an_item() -> None:
    """As many wake up as there are items; one that was cancelled takes none with it."""
    queue: FairQueue[int] = FairQueue()
    takers = [asyncio.create_task(queue.take()) for _ in range(3)]
    await asyncio.sleep(0)
    takers[0].cancel()
    queue.put("a", 1)
    queue.put("a", 2)
    assert await asyncio.gather(*takers[1:]) == [[1], [2]]
    with pytest.raises(asyncio.CancelledError):
        await takers[0]


async def test_what_was_discarded_is_never_taken() -> None:
    """The items of an owner go, those of others stay."""
    queue: FairQueue[int] = FairQueue()
    for number in range(4):
        queue.put(number % 2, number)
    queue.discard(0)
    queue.discard("nobody")
    assert await queue.take(9) == [1, 3]
    assert len(queue) == 0
