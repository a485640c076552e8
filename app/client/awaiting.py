"""The shell that awaits: does what the calls ask for, on asyncio's event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from app.client.answers import Result
from app.client.bulk import Question, answers, load
from app.client.errors import ClientError, NotFound, Problem
from app.client.events import Event, Following
from app.client.exchange import Call, Lost, Pause, Reply, Retries, Send, Upload, error_of, exchange
from app.client.transport import address_of, client_options, lost, pieces, reply_of, request_options

if TYPE_CHECKING:
    from app.client.images import Image

T = TypeVar("T")
_Step = TypeVar("_Step")
_Outcome = TypeVar("_Outcome")


class AsyncConnection:
    """A server, and how to speak with it. Any number of tasks may."""

    def __init__(self, server: str, key: str | None, timeout: float, retries: Retries) -> None:
        """Nothing is sent yet. Raises ValueError if `server` is no address, or `key` no key."""
        self.address = address_of(server)
        self._timeout = timeout
        self._retries = retries
        self._http = httpx.AsyncClient(**client_options(self.address, key))

    async def close(self) -> None:
        """Give the sockets back."""
        await self._http.aclose()

    async def do(self, call: Call[T], timeout: float | None = None) -> T:
        """Make a call, within `timeout` seconds or else those of the client.

        Raises:
            Problem, Unreachable.
        """

        async def perform(step: Send | Pause) -> Reply | Lost | None:
            if isinstance(step, Send):
                return await self._send(step)
            await asyncio.sleep(step.seconds)
            return None

        seconds = self._timeout if timeout is None else timeout
        return call.answer(await drive(exchange(call.request, self._retries, seconds), perform))

    async def wait(self, steps: Generator[Call[T] | Pause, T | NotFound | None, T]) -> T:
        """Look, pause, and look again, as `steps` say."""

        async def perform(step: Call[T] | Pause) -> T | NotFound | None:
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
                return None
            try:
                return await self.do(step)
            except NotFound as error:
                return error

        return await drive(steps, perform)

    @asynccontextmanager
    async def _lines(self, send: Send) -> AsyncIterator[AsyncIterator[str]]:
        """The lines of an answer as they come. Sent once.

        Raises:
            Problem, Unreachable: also within the block.
        """
        try:
            async with self._http.stream(send.request.method, send.request.path, **request_options(send)) as response:
                if not response.is_success:
                    await response.aread()
                    raise error_of(reply_of(response))
                yield response.aiter_lines()
        except httpx.TransportError as error:
            raise error_of(lost(self.address, error)) from error

    async def listen(
        self, following: Following, look: Callable[[Event | None], Awaitable[T]]
    ) -> AsyncGenerator[T, None]:
        """What `look` makes of each event, and of each sign of life (None), until the job has ended.

        Raises:
            Problem, Unreachable: also those that `look` raises, if they last.
        """
        while not following.over:
            error: ClientError | None = None
            try:
                async with self._lines(following.request()) as lines:
                    async for line in lines:
                        for event in following.hear(line):
                            yield await look(event)
            except ClientError as caught:
                error = caught
            if not following.over:
                await asyncio.sleep(following.pause(error))

    async def many(
        self, groups: Iterable[Sequence[tuple[str, Image]]], question: Question, concurrency: int, timeout: float | None
    ) -> AsyncGenerator[Result, None]:
        """Load the groups and ask about them, so many at a time; the results are in order.

        Groups are taken as results are: never more than twice `concurrency` of them are in memory.

        Raises:
            Problem, Unreachable: no image's fault; what is under way is given up.
        """
        places = asyncio.Semaphore(concurrency)

        async def ask(call: Call[list[Result]]) -> list[Result] | Problem:
            try:
                return await self.do(call, timeout)
            except Problem as error:
                return error

        async def answer(group: Sequence[tuple[str, Image]]) -> list[Result]:
            async with places:
                # Reading takes the disk's time, and encoding the processor's.
                loaded = await asyncio.to_thread(load, group)
                return await drive(answers(loaded, question), ask)

        begun: deque[asyncio.Task[list[Result]]] = deque()
        try:
            for group in groups:
                begun.append(asyncio.create_task(answer(group)))
                if len(begun) == 2 * concurrency:
                    for result in await begun[0]:
                        yield result
                    begun.popleft()
            while begun:
                for result in await begun[0]:
                    yield result
                begun.popleft()
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def _send(self, send: Send) -> Reply | Lost:
        options: dict[str, Any] = request_options(send)
        if send.request.upload is not None:
            options["content"] = _pieces(send.request.upload)
        try:
            return reply_of(await self._http.request(send.request.method, send.request.path, **options))
        except httpx.TransportError as error:
            return lost(self.address, error)


async def drive(
    steps: Generator[_Step, _Outcome | None, T], perform: Callable[[_Step], Awaitable[_Outcome | None]]
) -> T:
    """Do each step, tell what came of it, and return what it all comes to."""
    outcome: _Outcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            value: T = end.value
            return value
        outcome = await perform(step)


async def _pieces(upload: Upload) -> AsyncIterator[bytes]:
    chunks = pieces(upload)
    try:
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield chunk
    finally:
        # Of a call that was cancelled, a thread may be reading still; the file is closed when that is done.
        with suppress(ValueError):
            chunks.close()
