"""The service as an ASGI application: predict requests and probes past the framework, all else through it.

The framework, FastAPI with its routes, takes as long to import and build as a small model takes to load. So it is built
in a thread at the first request that needs it, or once the service has nothing better to do (`app.main`).
"""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from app.api import health, metrics, predict, protocols
from app.api.errors import answer
from app.api.lingering import Lingering
from app.api.observation import Observation
from app.api.origin import OriginGuard
from app.api.routes import PlainRoute
from app.api.services import Services
from app.api.traced_requests import TracedRequests
from app.errors import FoveaError

if TYPE_CHECKING:
    from app.api.framework import Framework


class Application(Starlette):
    """Our layers around all requests, and within them plain routes or the framework."""

    def __init__(self, services: Services, lifespan: Lifespan[Any]) -> None:
        super().__init__(lifespan=lifespan)
        self.state.services = services
        others = protocols.ways(services.settings)
        self.ways = [predict.lone(), *others]
        """The routes that answer images, for who answers past ASGI."""
        self._plain = [predict.route(), *health.routes(), *metrics.routes()]
        self._short = {(method, route.path): route for route in self._plain for method in route.methods or ()}
        self._protocols = protocols.routes(others, services.settings)
        self._prefixes = {_prefix(route.path) for route in self._protocols}
        self._building: asyncio.Task[Framework] | None = None
        # From the innermost to the outermost.
        layers: list[tuple[Any, dict[str, Any]]] = [
            (OriginGuard, {"services": services}),
            (Lingering, {}),
            (Observation, {"services": services}),
        ]
        if services.tracing is not None:
            layers.append((TracedRequests, {"tracing": services.tracing, "metrics": services.metrics}))
        self._outermost: ASGIApp = self._handle
        for layer, options in layers:
            self._outermost = layer(self._outermost, **options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the lifespan is Starlette's."""
        if scope["type"] == "http":
            scope["app"] = self
            await self._outermost(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    @property
    def routes(self) -> list[BaseRoute]:
        """All that there are, which needs the framework."""
        return self.framework.routes

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document of all of them."""
        return self.framework.openapi()

    @cached_property
    def framework(self) -> Framework:
        """FastAPI with all routes; the first look at it takes some tenths of a second.

        Raises:
            RuntimeError: a route does not declare who may use it.
        """
        from app.api.framework import build

        return build(self.state.services, [*self._plain, *self._protocols])

    async def complete(self) -> Framework:
        """The framework, built in a thread if it is not there yet. What failed is tried again at the next call."""
        failed = self._building is not None and self._building.done() and self._building.exception() is not None
        if self._building is None or failed:
            self._building = asyncio.create_task(asyncio.to_thread(lambda: self.framework))
        # Others may wait for it too.
        return await asyncio.shield(self._building)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = self._short.get((scope["method"], scope["path"])) or self._protocol(scope)
        if route is None:
            framework = await self.complete()
            await framework(scope, receive, send)
            return
        scope["route"] = route
        try:
            await route.handle(scope, receive, send)
        except FoveaError as error:
            await answer(error, scope)(scope, receive, send)

    def _protocol(self, scope: Scope) -> PlainRoute | None:
        """The route of another server's protocol, and what it found in the path."""
        if _prefix(scope["path"]) in self._prefixes:
            for route in self._protocols:
                match, found = route.matches(scope)
                if match is Match.FULL:
                    scope.update(found)
                    return route
        return None


def _prefix(path: str) -> str:
    """What stands before the second slash."""
    return path.split("/", 2)[1] if path.startswith("/") else ""
