"""Calls and what they leave behind."""

from __future__ import annotations

import asyncio
import gc
import math
import time
import weakref

import pytest

from app.errors import DeadlineExceeded
from app.serving.ticket import Lone, Result


class _Watched(Lone):
    """One that can be seen to be freed."""


@pytest.mark.parametrize("ending", ["answered", "abandoned"])
async def test_a_lone_call_that_has_ended_is_freed_before_its_deadline(ending: str) -> None:
    """Its timer goes with it: else thirty seconds' worth of calls would be held under load."""
    told: list[Result] = []
    call = _Watched(b"image", told.append, loop=asyncio.get_running_loop(), deadline=time.monotonic() + 3600)
    call.fail_in_time()
    gone = weakref.ref(call)
    gc.disable()
    try:
        if ending == "answered":
            call.settle(0, DeadlineExceeded("as good as any"))
        else:
            call.abandon()
        del call
        assert gone() is None
    finally:
        gc.enable()
    assert len(told) == (ending == "answered")


async def test_a_lone_call_that_waits_ends_at_its_deadline() -> None:
    """Whoever waits is told, once, though nobody looked at the call."""
    told: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
    call = Lone(b"image", told.set_result, loop=asyncio.get_running_loop(), deadline=time.monotonic() + 0.02)
    call.fail_in_time()
    assert isinstance(await asyncio.wait_for(told, 30), DeadlineExceeded)
    assert call.over
    call.settle(0, DeadlineExceeded("too late to be told"))


async def test_a_lone_call_without_a_deadline_has_no_timer() -> None:
    """It may wait for ever."""
    call = Lone(b"image", lambda _: None, loop=asyncio.get_running_loop(), deadline=math.inf)
    call.fail_in_time()
    await asyncio.sleep(0)
    assert not call.over
    call.abandon()
