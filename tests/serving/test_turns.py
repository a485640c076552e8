"""The queue in which each call gets a turn."""

from __future__ import annotations

import asyncio
import threading

from app.errors import NotReady
from app.serving.ticket import Ticket
from app.serving.turns import Turns, Work


def call(name: bytes, images: int) -> Ticket:
    return Ticket([name] * images, loop=asyncio.get_running_loop())


def names(work: list[Work]) -> list[str]:
    """What was taken: the call's name and the image's position."""
    images = [(ticket.image(0), index) for ticket, index in work]
    return [f"{image.decode() if isinstance(image, bytes) else '?'}{index}" for image, index in images]


async def test_calls_take_turns_and_keep_their_own_order() -> None:
    """A late call's first image comes right after one of each of the others."""
    turns = Turns(1)
    for ticket in (call(b"a", 3), call(b"b", 2), call(b"c", 1)):
        turns.put(ticket)
    assert names(turns.take(4)) == ["a0", "b0", "c0", "a1"]
    turns.put(call(b"d", 1))
    assert names(turns.take(9)) == ["b1", "a2", "d0"]


async def test_taking_waits_for_an_image_and_no_longer() -> None:
    """One is enough, however many were asked for."""
    turns = Turns(1)
    taking = asyncio.create_task(asyncio.to_thread(turns.take, 10))
    await asyncio.sleep(0.05)
    assert not taking.done()
    turns.put(call(b"a", 1))
    assert names(await taking) == ["a0"]


async def test_lanes_share_what_waits() -> None:
    """A call of many images is worked on by all lanes at once, however many a single one could take."""
    turns = Turns(2)
    turns.put(call(b"a", 6))
    assert names(turns.take(32)) == ["a0", "a1", "a2"]
    assert names(turns.take(32)) == ["a3", "a4"]
    assert names(turns.take(32)) == ["a5"]


async def test_calls_that_are_over_are_never_taken() -> None:
    """Those that wait no more are dropped, others stay."""
    turns = Turns(1)
    gone, here = call(b"a", 3), call(b"b", 1)
    turns.put(gone)
    turns.put(here)
    gone.fail(NotReady("gone"))
    assert names(turns.take(9)) == ["b0"]
    assert isinstance(await asyncio.gather(gone.results(), return_exceptions=True), list)


async def test_what_is_given_back_has_another_turn() -> None:
    """After the others that wait, and before none of its own call that is already taken."""
    turns = Turns(1)
    turns.put(call(b"a", 4))
    work = turns.take(4)
    turns.put(call(b"b", 1))
    turns.give_back(work[1:])
    turns.give_back([])
    assert names(turns.take(1)) == ["b0"]
    assert names(turns.take(9)) == ["a1", "a2", "a3"]


async def test_a_call_that_is_over_holds_no_bytes() -> None:
    """What it still takes in the queue is counted nowhere."""
    turns = Turns(1)
    gone = call(b"a", 2)
    turns.put(gone)
    gone.fail(NotReady("gone"))
    assert gone.image(0) is None
    assert isinstance((await asyncio.gather(gone.results(), return_exceptions=True))[0], NotReady)


async def test_closing_sends_every_lane_home() -> None:
    """Those that wait, and those that come later."""
    turns = Turns(2)
    ends: list[list[Work]] = []
    lanes = [threading.Thread(target=lambda: ends.append(turns.take(4))) for _ in range(2)]
    for lane in lanes:
        lane.start()
    turns.close()
    for lane in lanes:
        await asyncio.to_thread(lane.join, 10)
    assert ends == [[], []]
    assert turns.take(4) == []
