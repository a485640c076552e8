"""Around every remote call: an id, who may make it, its part in log and metrics, and errors as statuses.

All methods are registered as streams of bytes, whatever they are to the client, which cannot tell: so that who may not
call, or finds no room, is told before the message is read, and that it is read within a time and parsed by us.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeVar

import grpc

from app.api import security
from app.api.deadlines import TIMEOUT, parse_deadline
from app.api.errors import TURNED_AWAY, kind_of, log_fault, passing
from app.api.observation import CLIENT_CLOSED_REQUEST, Notes
from app.api.protocols.rpc.statuses import code_of
from app.api.security import Scope
from app.api.services import Services
from app.errors import DeadlineExceeded, FoveaError, InvalidRequest, NotReady, Overloaded, RequestTimeout

logger = logging.getLogger(__name__)

# What HTTP/2 calls all of them.
_METHOD = "POST"
# Details travel in a header, and clients take 8 KiB of those.
_MOST_DETAILS = 1500
# Messages that are read at a time. gRPC puts each together before it hands it over, in memory that the budget of bodies
# hears of only then; what is not read yet waits in the little buffers of its connection.
_READING = 32
# Those that say next to nothing have places of their own, more, and for a little time: some are of strangers, who shall
# not hold up a probe, nor send much meanwhile.
_READING_LITTLE, _LITTLE_SECONDS = 256, 2.0


class Message(Protocol):
    """Of protobuf."""

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's


_Reply = TypeVar("_Reply", bound=Message)


class Call:
    """One call, or one of the requests of a stream."""

    def __init__(
        self,
        services: Services,
        route: str,
        context: Any,
        request_id: str,
        metadata: dict[str, str],
        places: Mapping[bool, asyncio.Semaphore],
    ) -> None:
        """`places`: in which messages are read, of those that say little and of others."""
        self.services = services
        self.route = route
        self.request_id = request_id
        self.metadata = metadata
        """Names in lower case, of what is text."""
        self.begin = time.perf_counter()
        self._context = context
        self._places = places

    def deadline(self) -> float:
        """By when it is to be answered, by `time.monotonic`: the client's deadline, or the service's if that is sooner.

        Raises:
            InvalidRequest: the metadata `fovea-timeout-ms` is not allowed.
        """
        deadline = parse_deadline(self.metadata.get(TIMEOUT), self.services.settings)
        left: float | None = self._context.time_remaining()
        return deadline if left is None else min(deadline, time.monotonic() + left)

    @property
    def late(self) -> bool:
        """Whether the client's deadline has passed."""
        left: float | None = self._context.time_remaining()
        return left is not None and left <= 0

    async def read(self, deadline: float = math.inf, *, little: bool = False) -> bytes:
        """The message of a call that has one; `little`: one that says next to nothing.

        Raises:
            RequestTimeout, DeadlineExceeded: it did not come in time.
            Overloaded: too many others were coming.
            InvalidRequest: there is none.
        """
        seconds = self.services.settings.body_timeout
        if little:
            seconds = min(seconds, _LITTLE_SECONDS)
        waiting = True
        try:
            async with asyncio.timeout(min(seconds, deadline - time.monotonic())), self._places[little]:
                waiting = False
                message = await self._context.read()
        except TimeoutError:
            if deadline - time.monotonic() <= 0:
                error = DeadlineExceeded("The message did not come by the request's deadline.")
                # The classifier, which counts those that it gave up, has not seen it.
                self.services.metrics.rejected(error.code)
                raise error from None
            if waiting:
                self.services.metrics.rejected(Overloaded.code)
                raise Overloaded("Too many messages are coming in. Try again in a moment.", retry_after=1) from None
            raise RequestTimeout(f"The message did not come within {seconds:g} s.") from None
        if message is grpc.aio.EOF:
            raise InvalidRequest("The call has no message.")
        assert isinstance(message, bytes)
        return message


class Calls:
    """Makes the handlers of methods."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._notes = Notes(services)
        self._places = {False: asyncio.Semaphore(_READING), True: asyncio.Semaphore(_READING_LITTLE)}
        self.ending = asyncio.Event()
        """Set when streams are to end as soon as what was read of them is answered."""

    def handler(
        self, route: str, answer: Callable[[Call], Awaitable[Message]], *scopes: Scope
    ) -> grpc.RpcMethodHandler:
        """For a method of one message and one answer.

        Args:
            route: `/package.Service/Method`.
            answer: reads the message, and gives the answer; raises the domain's errors.
            scopes: of keys that may call it; none: whoever likes.
        """

        async def handle(_: object, context: Any) -> bytes:
            call = self._begin(route, context)
            status = 0
            try:
                self.authorize(call, *scopes)
                reply = await answer(call)
                begin = time.perf_counter()
                message = reply.SerializeToString()
                self._services.metrics.stage("render", time.perf_counter() - begin)
                status = 200
                return message
            except asyncio.CancelledError:
                status = self._left(call)
                raise
            except Exception as error:
                status = self._fail(call, context, error)
                return b""
            finally:
                self._end(call, status)

        return grpc.stream_unary_rpc_method_handler(handle)

    def stream_handler(
        self, route: str, answer: Callable[[Call, Any], Awaitable[None]], *scopes: Scope, most: int
    ) -> grpc.RpcMethodHandler:
        """For a method that reads and writes streams: `answer` gets its context, with `read` and `write` of bytes.

        Args:
            most: streams at a time, of which each may have a message that is half here.
        """
        streams = 0

        async def handle(_: object, context: Any) -> None:
            nonlocal streams
            call = self._begin(route, context)
            status = 0
            streams += 1
            try:
                self.authorize(call, *scopes)
                if streams > most:
                    self._services.metrics.rejected(Overloaded.code)
                    raise Overloaded(f"{most} streams are open; no more are allowed.", retry_after=1)
                await answer(call, context)
                status = 200
            except asyncio.CancelledError:
                # However a stream ends, it has been one; its requests are counted each.
                status = 200
                raise
            except Exception as error:
                status = self._fail(call, context, error)
            finally:
                streams -= 1
                self._end(call, status)

        return grpc.stream_stream_rpc_method_handler(handle)

    def authorize(self, call: Call, *scopes: Scope) -> None:
        """Let the call through, or raise Unauthorized or Forbidden; or NotReady, where it is no probe and we are
        stopping."""
        if scopes:
            headers = [(name.encode(), value.encode()) for name, value in call.metadata.items()]
            scope = {"type": "http", "headers": headers}
            services = self._services
            security.authorize(services.keys, scope, frozenset(scopes), anonymous=services.settings.anonymous)
            if self._services.lifecycle.stopping:
                raise NotReady("The service is shutting down.")

    async def next_message(self, context: Any, seconds: float | None = None) -> bytes | None:
        """The next message of a stream; None: there is none, or no more are to be read.

        Args:
            seconds: in which it has to come.

        Raises:
            RequestTimeout: it did not.
        """
        reading = asyncio.ensure_future(context.read())
        ending = asyncio.ensure_future(self.ending.wait())
        try:
            done, _ = await asyncio.wait((reading, ending), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if reading in done:
                message: Any = reading.result()
                return None if message is grpc.aio.EOF else message
            if not done:
                raise RequestTimeout(f"No message came within {seconds:g} s.")
            return None
        finally:
            reading.cancel()
            ending.cancel()

    async def one_of_stream(self, stream: Call, context: Any, answer: Callable[[Call], Awaitable[_Reply]]) -> _Reply:
        """Answer one of the requests of a stream, and note it as a call; raises the domain's errors, and `Fault`."""
        call = Call(self._services, stream.route, context, self._notes.identify(None), stream.metadata, self._places)
        status = 0
        try:
            reply = await answer(call)
            status = 200
            return reply
        except asyncio.CancelledError:
            status = self._left(call)
            raise
        except Exception as error:
            status, _, text, _ = self._explain(call, error)
            raise Fault(text) from error
        finally:
            self._end(call, status)

    def _begin(self, route: str, context: Any) -> Call:
        metadata = {name: value for name, value in context.invocation_metadata() if isinstance(value, str)}
        offered = metadata.get("x-request-id")
        request_id = self._notes.identify(None if offered is None else offered.encode("utf-8", "replace"))
        context.set_trailing_metadata((("x-request-id", request_id),))
        return Call(self._services, route, context, request_id, metadata, self._places)

    def _end(self, call: Call, status: int) -> None:
        seconds = time.perf_counter() - call.begin
        self._notes.end(call.request_id, route=call.route, method=_METHOD, status=status, seconds=seconds)

    def _left(self, call: Call) -> int:
        """Note a call that was broken off; the status that it is noted with."""
        self._services.metrics.rejected(DeadlineExceeded.code if call.late else "client_gone")
        return kind_of(DeadlineExceeded).status if call.late else CLIENT_CLOSED_REQUEST

    def _fail(self, call: Call, context: Any, error: Exception) -> int:
        status, code, text, more = self._explain(call, error)
        context.set_trailing_metadata((("x-request-id", call.request_id), *more))
        # To abort would raise, and a server that is stopping waits for no call that did.
        context.set_code(code)
        context.set_details(text)
        return status

    def _explain(self, call: Call, error: Exception) -> tuple[int, grpc.StatusCode, str, list[tuple[str, str]]]:
        """What an error is noted as, its status code, its words, and what goes along with it."""
        if not isinstance(error, FoveaError):
            logger.error("Unexpected error", extra={"request_id": call.request_id}, exc_info=error)
            text = f"The service failed on this request. Its log has the reason under the id {call.request_id}."
            return 500, grpc.StatusCode.INTERNAL, text, []
        if error.code in TURNED_AWAY:
            self._services.metrics.rejected(error.code)
        log_fault(error, call.request_id)
        more = [("fovea-code", error.code)]
        if passing(error):
            wait = error.retry_after if isinstance(error, Overloaded) else self._services.classifier.retry_after()
            more += [("retry-after", str(max(1, math.ceil(wait))))]
        text = str(error)
        text = text if len(text) <= _MOST_DETAILS else text[: _MOST_DETAILS - 1] + "…"
        return kind_of(type(error)).status, code_of(type(error)), text, more


class Fault(Exception):
    """One of a stream's requests ended in an error, which was noted; in words for the client."""
