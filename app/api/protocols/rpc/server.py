"""The gRPC server: its methods, who may call them, its limits, its beginning and its end."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc

from app.api.protocols.rpc import health, reflection
from app.api.protocols.rpc.calls import Calls
from app.api.protocols.rpc.infer import Infer
from app.api.protocols.rpc.models import Models
from app.api.protocols.rpc.tfserving import MODEL, PREDICTION, TensorFlowServing
from app.api.services import Services
from app.errors import ConfigurationError

logger = logging.getLogger(__name__)

INFERENCE = "inference.GRPCInferenceService"

_LOOK_SECONDS = 0.05
# In which calls are still taken, and turned away: those that gRPC has not handed over when it is stopped end as
# cancelled, which no client tries again.
_REFUSING_SECONDS = 0.25
# Calls of one connection at a time, above what may wait in the queue: those are told that there is no room.
_MORE_STREAMS = 128
# Else gRPC takes in, of every call of a fast network, tens of megabytes before anybody reads them.
_NO_PROBE_OF_BANDWIDTH = 0
# Streams at a time: of inference, and of reflection, which strangers may ask.
_STREAMS, _MIRRORS = 64, 8
_KEEP_ALIVE_MILLISECONDS = 60_000
_IDLE_MILLISECONDS = 30 * 60_000
# Of the algorithms by which messages may be compressed, none: gRPC would unpack a small one to any size before we saw
# it, and encoded images do not shrink.
_IDENTITY_ONLY = 1


@asynccontextmanager
async def serving(services: Services) -> AsyncIterator[int]:
    """Serve on the port of the settings for the length of the block, and until the service is stopping; yields the
    port. Calls in flight are then answered, within the grace of the settings.

    Raises:
        ConfigurationError: the port is in use.
    """
    server, calls = _build(services)
    address = _address(services)
    try:
        port: int = server.add_insecure_port(address)
    except RuntimeError as error:
        raise ConfigurationError(f"gRPC cannot listen on {address}: {error}. Set FOVEA_GRPC_PORT.") from error
    await server.start()
    logger.info("gRPC listens on port %d of %s.", port, services.settings.host)
    stopping = asyncio.create_task(_stop_in_time(services, server, calls))
    try:
        yield port
    finally:
        services.lifecycle.stopping = True
        await stopping


def _build(services: Services) -> tuple[grpc.aio.Server, Calls]:
    calls = Calls(services)
    infer, models = Infer(services, calls), Models(services)
    tensorflow = TensorFlowServing(services)
    names = [INFERENCE, PREDICTION, MODEL, health.SERVICE, *reflection.SERVICES]
    unary, stream = calls.handler, calls.stream_handler

    def route(method: str) -> str:
        return f"/{INFERENCE}/{method}"

    inference = {
        "ServerLive": unary(route("ServerLive"), models.live),
        "ServerReady": unary(route("ServerReady"), models.ready),
        "ModelReady": unary(route("ModelReady"), models.model_ready),
        "ServerMetadata": unary(route("ServerMetadata"), models.server, "predict", "train"),
        "ModelMetadata": unary(route("ModelMetadata"), models.metadata, "predict", "train"),
        "ModelConfig": unary(route("ModelConfig"), models.config, "predict", "train"),
        "ModelStatistics": unary(route("ModelStatistics"), models.statistics, "predict", "train"),
        "ModelInfer": unary(route("ModelInfer"), infer.infer, "predict"),
        "ModelStreamInfer": stream(route("ModelStreamInfer"), infer.stream, "predict", most=_STREAMS),
        "RepositoryIndex": unary(route("RepositoryIndex"), models.index, "predict", "train"),
        "RepositoryModelLoad": unary(route("RepositoryModelLoad"), models.load, "admin"),
        "RepositoryModelUnload": unary(route("RepositoryModelUnload"), models.unload, "admin"),
    }
    state = health.Health(services, calls, names)
    handlers = [
        grpc.method_handlers_generic_handler(INFERENCE, inference),
        grpc.method_handlers_generic_handler(
            PREDICTION, {"Predict": unary(f"/{PREDICTION}/Predict", tensorflow.predict, "predict")}
        ),
        grpc.method_handlers_generic_handler(
            MODEL, {"GetModelStatus": unary(f"/{MODEL}/GetModelStatus", tensorflow.status, "predict", "train")}
        ),
        grpc.method_handlers_generic_handler(
            health.SERVICE,
            {
                "Check": unary(f"/{health.SERVICE}/Check", state.check),
                "Watch": stream(f"/{health.SERVICE}/Watch", state.watch, most=health.MOST_WATCHERS),
            },
        ),
    ]
    mirror = reflection.Reflection(calls, names)
    for name in reflection.SERVICES:
        method = "ServerReflectionInfo"
        handlers.append(
            grpc.method_handlers_generic_handler(
                name, {method: stream(f"/{name}/{method}", mirror.answer, most=_MIRRORS)}
            )
        )
    server = grpc.aio.server(options=_options(services))
    server.add_generic_rpc_handlers(handlers)
    return server, calls


def _options(services: Services) -> list[tuple[str, int]]:
    settings = services.settings
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", settings.max_queue + _MORE_STREAMS),
        ("grpc.compression_enabled_algorithms_bitset", _IDENTITY_ONLY),
        ("grpc.server_handshake_timeout_ms", math.ceil(settings.body_timeout * 1000)),
        ("grpc.http2.bdp_probe", _NO_PROBE_OF_BANDWIDTH),
        ("grpc.keepalive_time_ms", _KEEP_ALIVE_MILLISECONDS),
        ("grpc.max_connection_idle_ms", _IDLE_MILLISECONDS),
    ]


def _address(services: Services) -> str:
    """As of `app.api.listening`, the first that the host stands for."""
    settings = services.settings
    found = socket.getaddrinfo(
        settings.host, settings.grpc_port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE | socket.AI_NUMERICSERV
    )
    host, port = map(str, found[0][4][:2])
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _stop_in_time(services: Services, server: grpc.aio.Server, calls: Calls) -> None:
    while not services.lifecycle.stopping:  # noqa: ASYNC110 - a signal handler sets it, which may not wait for locks
        await asyncio.sleep(_LOOK_SECONDS)
    calls.ending.set()
    await asyncio.sleep(min(_REFUSING_SECONDS, services.settings.shutdown_grace))
    await server.stop(services.settings.shutdown_grace)
