"""The shell that blocks: does what the calls ask for, on the thread that calls."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from app.client.answers import Result
from app.client.bulk import Question, answers, load
from app.client.errors import ClientError, NotFound, Problem
from app.client.events import Event, Following
from app.client.exchange import Call, Lost, Pause, Reply, Retries, Send, error_of, exchange
from app.client.transport import address_of, client_options, lost, pieces, reply_of, request_options

if TYPE_CHECKING:
    from app.client.images import Image

T = TypeVar("T")
_Step = TypeVar("_Step")
_Outcome = TypeVar("_Outcome")


class _Stopped(Exception):
    """Nobody waits for the answer any more."""


class Connection:
    """A server, and how to speak with it. Any number of threads may."""

    def __init__(self, server: str, key: str | None, timeout: float, retries: Retries) -> None:
        """Nothing is sent yet. Raises ValueError if `server` is no address, or `key` no key."""
        self.address = address_of(server)
        self._timeout = timeout
        self._retries = retries
        self._http = httpx.Client(**client_options(self.address, key))

    def close(self) -> None:
        """Give the sockets back."""
        self._http.close()

    def do(self, call: Call[T], timeout: float | None = None, sleep: Callable[[float], None] = time.sleep) -> T:
        """Make a call, within `timeout` seconds or else those of the client; `sleep` is what waits between attempts.

        Raises:
            Problem, Unreachable.
        """

        def perform(step: Send | Pause) -> Reply | Lost | None:
            if isinstance(step, Send):
                return self._send(step)
            sleep(step.seconds)
            return None

        seconds = self._timeout if timeout is None else timeout
        return call.answer(drive(exchange(call.request, self._retries, seconds), perform))

    def wait(self, steps: Generator[Call[T] | Pause, T | NotFound | None, T]) -> T:
        """Look, pause, and look again, as `steps` say."""

        def perform(step: Call[T] | Pause) -> T | NotFound | None:
            if isinstance(step, Pause):
                time.sleep(step.seconds)
                return None
            try:
                return self.do(step)
            except NotFound as error:
                return error

        return drive(steps, perform)

    @contextmanager
    def _lines(self, send: Send) -> Iterator[Iterator[str]]:
        """The lines of an answer as they come. Sent once.

        Raises:
            Problem, Unreachable: also within the block.
        """
        try:
            with self._http.stream(send.request.method, send.request.path, **request_options(send)) as response:
                if not response.is_success:
                    response.read()
                    raise error_of(reply_of(response))
                yield response.iter_lines()
        except httpx.TransportError as error:
            raise error_of(lost(self.address, error)) from error

    def listen(self, following: Following, look: Callable[[Event | None], T]) -> Iterator[T]:
        """What `look` makes of each event, and of each sign of life (None), until the job has ended.

        Raises:
            Problem, Unreachable: also those that `look` raises, if they last.
        """
        while not following.over:
            error: ClientError | None = None
            try:
                with self._lines(following.request()) as lines:
                    for line in lines:
                        for event in following.hear(line):
                            yield look(event)
            except ClientError as caught:
                error = caught
            if not following.over:
                time.sleep(following.pause(error))

    def many(
        self, groups: Iterable[Sequence[tuple[str, Image]]], question: Question, concurrency: int, timeout: float | None
    ) -> Generator[Result, None, None]:
        """Load the groups and ask about them, so many at a time; the results are in order.

        Groups are taken as results are: never more than twice `concurrency` of them are in memory.

        Raises:
            Problem, Unreachable: no image's fault; what is not under way yet is given up.
        """
        stopped = threading.Event()

        def sleep(seconds: float) -> None:
            if stopped.wait(seconds):
                raise _Stopped

        def ask(call: Call[list[Result]]) -> list[Result] | Problem:
            try:
                return self.do(call, timeout, sleep)
            except Problem as error:
                return error

        def answer(group: Sequence[tuple[str, Image]]) -> list[Result]:
            return drive(answers(load(group), question), ask)

        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="fovea-client")
        begun: deque[Future[list[Result]]] = deque()
        try:
            for group in groups:
                begun.append(pool.submit(answer, group))
                if len(begun) == 2 * concurrency:
                    yield from begun.popleft().result()
            while begun:
                yield from begun.popleft().result()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)

    def _send(self, send: Send) -> Reply | Lost:
        options: dict[str, Any] = request_options(send)
        if send.request.upload is not None:
            options["content"] = pieces(send.request.upload)
        try:
            return reply_of(self._http.request(send.request.method, send.request.path, **options))
        except httpx.TransportError as error:
            return lost(self.address, error)


def drive(steps: Generator[_Step, _Outcome | None, T], perform: Callable[[_Step], _Outcome | None]) -> T:
    """Do each step, tell what came of it, and return what it all comes to."""
    outcome: _Outcome | None = None
    while True:
        try:
            step = steps.send(outcome)
        except StopIteration as end:
            value: T = end.value
            return value
        outcome = perform(step)
