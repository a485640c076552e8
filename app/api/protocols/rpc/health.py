"""gRPC's health protocol, `grpc.health.v1.Health`, for probes and load balancers."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from grpc_health.v1 import health_pb2 as pb

from app.api.protocols.inference_service import server_ready
from app.api.protocols.rpc.calls import Call, Calls
from app.api.protocols.rpc.models import read
from app.api.services import Services
from app.errors import NotFound

SERVICE = "grpc.health.v1.Health"

_LOOK_SECONDS = 0.5
# Strangers may watch.
MOST_WATCHERS = 256


class Health:
    """Says of the whole, of each service and of each model whether it can answer. Belongs to one event loop."""

    def __init__(self, services: Services, calls: Calls, names: Collection[str]) -> None:
        """`names`: of the gRPC services that there are."""
        self._calls = calls
        self._services = services
        self._names = frozenset(names)

    async def check(self, call: Call) -> Any:
        """Check: how it stands now."""
        request = await read(call, pb.HealthCheckRequest)
        status = self._status(request.service)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFound(
                f"There is no service or model {request.service[:80]!r}. Allowed: none, a model's name, or one of "
                f"{', '.join(sorted(self._names))}."
            )
        return pb.HealthCheckResponse(status=status)

    async def watch(self, call: Call, context: Any) -> None:
        """Watch: how it stands now, and whenever that changes, until the service stops."""
        request = await read(call, pb.HealthCheckRequest)
        told = None
        while True:
            ending = self._calls.ending.is_set()
            status = self._status(request.service)
            if status != told:
                await context.write(pb.HealthCheckResponse(status=status).SerializeToString())
                told = status
            if ending:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._calls.ending.wait(), _LOOK_SECONDS)

    def _status(self, name: str) -> int:
        """Of the whole (""), a service, or a model."""
        response = pb.HealthCheckResponse
        if not name or name in self._names:
            ready = server_ready(self._services)
        else:
            status = self._services.classifier.status()
            model = next((model for model in status.models if model.model == name), None)
            if model is None:
                return int(response.SERVICE_UNKNOWN)
            ready = model.state in ("ready", "degraded") and not self._services.lifecycle.stopping
        return int(response.SERVING if ready else response.NOT_SERVING)
