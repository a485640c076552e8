"""gRPC's calls while the engine is held up: overload, deadlines, clients that leave, and the end of the service."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from app.api import errors
from app.api.listening import hold_grpc_port
from app.api.protocols.grpc_stubs import inference_pb2 as pb
from app.api.protocols.rpc.server import serving
from app.api.protocols.rpc.statuses import CODES
from app.api.services import Services
from app.errors import ConfigurationError
from app.settings import Settings
from app.store.registry import Registry
from tests.api.conftest import API, StartAPI
from tests.api.test_predict import Gate
from tests.serving.versions import add_version, gray

pytestmark = pytest.mark.anyio

SERVICE = "/inference.GRPCInferenceService"


class Line:
    """A client of one application's gRPC, in the same event loop."""

    def __init__(self, services: Services, channel: Any) -> None:
        self.services = services
        self._infer = channel.unary_unary(f"{SERVICE}/ModelInfer")
        self.stream = channel.stream_stream(f"{SERVICE}/ModelStreamInfer")
        self.slow = channel.stream_unary(f"{SERVICE}/ModelInfer")
        self.mirror = channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
        self.watch = channel.unary_stream("/grpc.health.v1.Health/Watch")
        self.load = channel.unary_unary(f"{SERVICE}/RepositoryModelLoad")
        self.live = channel.unary_unary(f"{SERVICE}/ServerLive")

    def infer(self, parameters: dict[str, int] | None = None, *, model: str = "shapes", timeout: float = 20) -> Any:
        """A call of ModelInfer, under way."""
        return self._infer(message(model, **parameters or {}), timeout=timeout)

    async def busy(self, calls: int) -> None:
        """Wait until so many calls are in the queue or in the engine."""
        async with asyncio.timeout(10):
            while len(self.services.classifier._tickets) != calls:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.005)


def message(model: str = "shapes", **parameters: int) -> bytes:
    """A ModelInferRequest of one image."""
    request = pb.ModelInferRequest(model_name=model, id="one")
    tensor = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(gray(3))
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    raw: bytes = request.SerializeToString()
    return raw


@asynccontextmanager
async def listening(api: API) -> AsyncIterator[Line]:
    """gRPC of an application, and a client of it."""
    async with serving(api.services) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield Line(api.services, channel)


async def failure(call: Awaitable[Any]) -> Any:
    """The error in which a call ends."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def status(call: Awaitable[Any]) -> grpc.StatusCode:
    """How a call ends."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK


async def test_a_full_queue_is_told_at_once_with_when_to_come_back(start: StartAPI) -> None:
    """Calls beyond FOVEA_MAX_QUEUE end in RESOURCE_EXHAUSTED; those before them are answered."""
    gate = Gate()
    async with listening(await start(load_runtime=gate, max_queue=1, grpc_port=0)) as line:
        gate.close()
        held = line.infer()
        await line.busy(1)
        assert line.services.bodies.used > 0
        error = await failure(line.infer())
        gate.open()
        assert pb.ModelInferResponse.FromString(await held).id == "one"
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        told = dict(error.trailing_metadata())
        assert (told["fovea-code"], int(told["retry-after"]) >= 1) == ("overloaded", True)
        assert line.services.bodies.used == 0


async def test_a_model_of_which_nothing_loads_is_not_to_be_asked_again(start: StartAPI, registry: Registry) -> None:
    """UNAVAILABLE is for what may answer in a moment; clients try that again."""
    add_version(registry, "broken", promote=True, forge=lambda images, answers: (images, answers[:, ::-1]))
    async with listening(await start(grpc_port=0)) as line:
        error = await failure(line.infer(model="broken"))
        assert (error.code(), "golden" in error.details()) == (grpc.StatusCode.FAILED_PRECONDITION, True)
        assert dict(error.trailing_metadata())["fovea-code"] == "version_refused"


@pytest.mark.parametrize("how", ["cancelled", "late", "late by parameter"])
async def test_who_does_not_wait_frees_the_place(start: StartAPI, how: str) -> None:
    """A call that is cancelled, or whose deadline passes, leaves the queue long before the engine is free."""
    gate = Gate()
    async with listening(await start(load_runtime=gate, max_queue=1, grpc_port=0)) as line:
        gate.close()
        call = line.infer({"timeout": 300_000} if "by" in how else None, timeout=0.3 if how == "late" else 20)
        await line.busy(1)
        if how == "cancelled":
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            error = await failure(call)
            assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        await line.busy(0)
        gate.open()
        await line.infer()


async def test_what_is_in_flight_at_the_end_is_answered(start: StartAPI) -> None:
    """When the service stops, calls that were let in get their answers, streams too, which then end; others are turned
    away."""
    gate = Gate()
    async with listening(await start(load_runtime=gate, grpc_port=0)) as line:
        gate.close()
        held, stream = line.infer(), line.stream(timeout=20)
        await stream.write(message())
        mirror, watching = line.mirror(timeout=20), line.watch(b"", timeout=20)
        await watching.read()
        await line.busy(2)
        line.services.lifecycle.stopping = True
        assert await status(line.infer()) == grpc.StatusCode.UNAVAILABLE
        async with asyncio.timeout(10):
            while await status(line.live(b"", timeout=5)) == grpc.StatusCode.OK:  # noqa: ASYNC110 - nobody tells of it
                await asyncio.sleep(0.005)
        # Before the client knows of the end gRPC cancels its calls; then it cannot connect.
        assert await status(line.live(b"", timeout=5)) in (grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE)
        assert await mirror.read() is grpc.aio.EOF
        told = health_pb2.HealthCheckResponse.FromString(await watching.read())
        assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watching.read() is grpc.aio.EOF
        gate.open()
        assert pb.ModelInferResponse.FromString(await held).id == "one"
        assert pb.ModelStreamInferResponse.FromString(await stream.read()).infer_response.id == "one"
        assert (await failure(stream.read())).code() == grpc.StatusCode.UNAVAILABLE


async def test_strangers_may_be_let_only_predict(start: StartAPI) -> None:
    """Without keys, and with FOVEA_ANONYMOUS=predict, images are answered, and nothing is loaded."""
    async with listening(await start(grpc_port=0, anonymous="predict")) as line:
        await line.infer()
        assert await status(line.load(b"", timeout=20)) == grpc.StatusCode.PERMISSION_DENIED


async def test_a_fault_of_ours_says_nothing_but_its_id(
    start: StartAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has the trace under the id that the client is told."""
    api = await start(grpc_port=0)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(api.services.classifier, "classify", broken)
    async with listening(api) as line:
        error = await failure(line.infer())
    assert (error.code(), "secret" in error.details()) == (grpc.StatusCode.INTERNAL, False)
    [record] = [record for record in caplog.records if record.message == "Unexpected error"]
    assert dict(error.trailing_metadata())["x-request-id"] == record.__dict__["request_id"]
    assert record.__dict__["request_id"] in error.details()


def test_a_port_in_use_is_named() -> None:
    """At the start, before gRPC would share it with whoever else does; so is the port of HTTP, if it is given twice."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigurationError, match=f"port {port} of 127.0.0.1: it is in use.*FOVEA_GRPC_PORT={port + 1}"
        ):
            hold_grpc_port(Settings(grpc_port=port))
    with pytest.raises(ConfigurationError, match="both 8000"):
        Settings(port=8000, grpc_port=8000).check()


def test_every_error_has_a_status() -> None:
    """The table of gRPC's statuses has the same errors as that of HTTP's."""
    assert set(CODES) == set(errors.KINDS)


async def test_streams_are_no_more_than_are_allowed(start: StartAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may have a message that is half here; the next is told to come back, and finds room when one has ended."""
    monkeypatch.setattr("app.api.protocols.rpc.server._STREAMS", 1)
    async with listening(await start(grpc_port=0)) as line:
        first = line.stream(timeout=20)
        await first.write(message())
        await first.read()
        error = await failure(line.stream(timeout=20).read())
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "1 streams are open" in (error.details() or "")
        await first.done_writing()
        assert await first.read() is grpc.aio.EOF
        async with asyncio.timeout(10):
            while True:
                second = line.stream(timeout=20)
                await second.write(message())
                try:
                    await second.read()
                    break
                except grpc.aio.AioRpcError:  # the first has not been put away yet
                    await asyncio.sleep(0.01)


async def test_messages_are_read_in_a_bounded_number_of_places(
    start: StartAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls whose messages do not come hold up others that bring images, and no probe."""
    monkeypatch.setattr("app.api.protocols.rpc.calls._READING", 1)
    async with listening(await start(grpc_port=0)) as line:
        stalled = line.slow(timeout=20)

        async def held_up() -> bool:
            error = await status(line.infer(timeout=0.3))
            assert error in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)
            return error is not grpc.StatusCode.OK

        async with asyncio.timeout(10):
            while not await held_up():  # noqa: ASYNC110 - nobody tells when the call is there
                await asyncio.sleep(0.01)
        await line.live(b"", timeout=10)
        await stalled.write(message())
        await stalled.done_writing()
        await stalled
        await line.infer()
