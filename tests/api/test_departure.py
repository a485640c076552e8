"""Breaking off requests whose client has gone or is too slow."""

from __future__ import annotations

import asyncio
import math
import time

import pytest
from starlette.types import Message

from app.api.departure import Departure
from app.api.errors import ClientGone
from app.errors import DeadlineExceeded, RequestTimeout

pytestmark = pytest.mark.anyio


async def silent() -> Message:
    """A client that says nothing more."""
    await asyncio.Event().wait()
    raise AssertionError


async def gone() -> Message:
    """A client that has closed the connection."""
    return {"type": "http.disconnect"}


async def test_body_that_does_not_come_in_time_ends_the_request() -> None:
    """With the time that it had."""
    with pytest.raises(RequestTimeout, match=r"after 0\.1 s"), Departure(silent, 0.1, math.inf):
        await asyncio.sleep(20)


async def test_body_that_does_not_come_by_the_deadline_ends_the_request() -> None:
    """Though it had more time by itself."""
    with pytest.raises(DeadlineExceeded), Departure(silent, 60, time.monotonic() + 0.1):
        await asyncio.sleep(20)


@pytest.mark.parametrize("slow", [False, True])
async def test_client_that_goes_ends_the_wait_for_its_answer(slow: bool) -> None:
    """Whether its body came at once or took a while."""

    async def work() -> None:
        with Departure(gone, 60, math.inf) as departure:
            if slow:
                await asyncio.sleep(0.1)
            departure.body_came()
            await asyncio.sleep(20)

    with pytest.raises(ClientGone):
        await work()


async def test_while_the_body_comes_nobody_else_listens() -> None:
    """Else the piece that comes next would be lost."""
    with Departure(gone, 60, math.inf):
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("body_came", [False, True])
async def test_cancellation_from_outside_goes_on(body_came: bool) -> None:
    """What ends the service is no departure, before the body came and after."""

    async def work() -> None:
        with Departure(silent, 60, math.inf) as departure:
            if body_came:
                departure.body_came()
            await asyncio.sleep(20)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_nothing_is_left_behind() -> None:
    """A request that was answered is not broken off later."""
    with Departure(gone, 0.1, math.inf) as departure:
        departure.body_came()
    await asyncio.sleep(0.15)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
