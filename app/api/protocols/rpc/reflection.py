"""gRPC's reflection, by which tools like grpcurl learn what services there are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2 as pb
from grpc_reflection.v1alpha.reflection import aio

from app.api.protocols.grpc_stubs import descriptor_pool
from app.api.protocols.rpc.calls import Call, Calls
from app.errors import InvalidRequest

# The two differ in nothing but their names.
SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class Reflection:
    """Tells of the services in our own pool."""

    def __init__(self, calls: Calls, names: Collection[str]) -> None:
        """`names`: of the gRPC services that there are."""
        self._calls = calls
        pool = descriptor_pool.Default()
        for module in (health_pb2, pb):
            pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
        self._servicer = aio.ReflectionServicer(names, pool=pool)

    async def answer(self, call: Call, context: Any) -> None:
        """ServerReflectionInfo."""
        seconds = call.services.settings.body_timeout

        async def requests() -> AsyncIterator[Any]:
            while (message := await self._calls.next_message(context, seconds)) is not None:
                try:
                    yield pb.ServerReflectionRequest.FromString(message)
                except DecodeError:
                    raise InvalidRequest("The message is no ServerReflectionRequest.") from None

        async for reply in self._servicer.ServerReflectionInfo(requests(), context):
            await context.write(reply.SerializeToString())
