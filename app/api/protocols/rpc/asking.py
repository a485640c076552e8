"""What all remote calls that ask for answers share: admission, the message's limits, deadlines, stages."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Literal, Protocol, TypeVar

from app.api.protocols.rpc.calls import Call
from app.api.protocols.rpc.wire import Shape, take_apart
from app.api.services import Services
from app.serving.classifier import Answer
from app.serving.tensors import Image

# What is left to be parsed of larger messages than this is parsed in a thread.
_LARGE = 64 * 1024


class Asked(Protocol):
    """A request, read."""

    @property
    def model(self) -> str | None:
        """None: the default model."""

    @property
    def version(self) -> int | Literal["production"]: ...

    @property
    def seconds(self) -> float | None:
        """Within which it asks for its answer, if it says so."""

    @property
    def images(self) -> Sequence[Image]: ...


_Asked = TypeVar("_Asked", bound=Asked)
Reader = Callable[[bytes, list[memoryview], int], _Asked]
"""Reads a message: what was not taken out of it, what was, and how many images are allowed. May run in a thread."""


class Asking:
    """Asks the classifier. Belongs to one event loop."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def call(self, call: Call, shape: Shape, read: Reader[_Asked]) -> tuple[_Asked, Answer]:
        """Read the message of a call, and have it answered; errors as of `message`, and of `Call.read`."""
        self._admit(call)
        deadline = call.deadline()
        since = time.perf_counter()
        return await self._answer(await call.read(deadline), since, deadline, shape, read)

    async def message(self, call: Call, message: bytes, shape: Shape, read: Reader[_Asked]) -> tuple[_Asked, Answer]:
        """Have a message answered that came already.

        Raises:
            FoveaError: as of `Classifier.classify`; or what is wrong with the message.
        """
        self._admit(call)
        return await self._answer(message, time.perf_counter(), call.deadline(), shape, read)

    def _admit(self, call: Call) -> None:
        try:
            # Which model it is for is in the message: only whether there is room at all can be told before.
            self._services.classifier.check_admission()
        finally:
            self._services.metrics.stage("admission", time.perf_counter() - call.begin)

    async def _answer(
        self, message: bytes, since: float, deadline: float, shape: Shape, read: Reader[_Asked]
    ) -> tuple[_Asked, Answer]:
        services = self._services
        with services.bodies.hold() as take:
            parts = take_apart(message, shape)
            take(parts.memory)
            most = services.settings.max_files
            if len(parts.rest) > _LARGE:
                asked = await asyncio.to_thread(read, parts.rest, parts.taken, most)
            else:
                asked = read(parts.rest, parts.taken, most)
            services.metrics.stage("read", time.perf_counter() - since)
            if asked.seconds is not None:
                deadline = min(deadline, time.monotonic() + asked.seconds)
            answer = await services.classifier.classify(
                asked.images, model=asked.model, version=asked.version, deadline=deadline
            )
        return asked, answer
