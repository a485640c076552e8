"""Around every request: an id, one line in the log, and its part in the metrics.

Also the last line of defence: what nobody caught becomes a problem document without a
stack trace, and the trace goes to the log under the same id.
"""

from __future__ import annotations

import itertools
import logging
import re
import secrets
import time
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import ClientGone, internal, render
from app.api.plain_errors import suit
from app.api.services import Services
from app.errors import FoveaError
from app.metrics import Metrics

logger = logging.getLogger(__name__)
access = logging.getLogger("fovea.access")

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
# What nginx logs for a client that went away before it was answered.
CLIENT_CLOSED_REQUEST = 499
# The lowest status whose requests are logged.
_LOGGED_FROM = {"all": 0, "failures": 400, "none": 1000}
NO_SNIFFING = (b"x-content-type-options", b"nosniff")


class Notes:
    """What is written down about a request: its id before, and a line in the log and its part in the metrics after."""

    def __init__(self, services: Services) -> None:
        self.metrics: Metrics = services.metrics
        # Unique, as an id has to be; asking the system for each costs as much as finding the route.
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count()
        self._logged_from = _LOGGED_FROM[services.settings.access_log]

    def identify(self, offered: bytes | None) -> str:
        """The id of a request: the client's own, if it is short and harmless, so that one id follows a request through
        all services."""
        if offered is not None and _ACCEPTABLE_ID.fullmatch(text := offered.decode("latin-1")):
            return text
        return f"{self._prefix}{next(self._numbers):08x}"

    def end(self, request_id: str, *, route: str | None, method: str, status: int, seconds: float) -> None:
        """Note what came of a request. `route` is the template of the one that matched."""
        self.metrics.request(route=route, method=method, status=status, seconds=seconds)
        if status >= self._logged_from:
            access.info(
                "request",
                extra={
                    "request_id": request_id,
                    "method": method,
                    "route": route or "unmatched",
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                },
            )


class Observation:
    """ASGI middleware; the outermost of ours."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._notes = Notes(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, or pass on what is none."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        request_id = self._notes.identify(_offered_id(scope))
        scope["fovea.request_id"] = request_id
        status = 0

        def observed(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (b"x-request-id", request_id.encode()), NO_SNIFFING]
                message = {**message, "headers": headers}
            return send(message)

        try:
            await self._app(scope, receive, observed)
        except ClientGone:
            self._notes.metrics.rejected("client_gone")
            status = status or CLIENT_CLOSED_REQUEST
        except FoveaError as error:
            # Of the middlewares within; those of the routes are answered further inside.
            if status != 0:
                raise
            await suit(render(error, request_id), scope)(scope, receive, observed)
        except Exception:
            logger.exception("Unexpected error", extra={"request_id": request_id})
            if status != 0:
                raise  # half an answer is out; the server can only cut the connection
            await suit(internal(request_id), scope)(scope, receive, observed)
        finally:
            self._notes.end(
                request_id,
                route=route_template(scope),
                method=scope["method"],
                status=status or CLIENT_CLOSED_REQUEST,
                seconds=time.perf_counter() - begin,
            )


def route_template(scope: Scope) -> str | None:
    """Template of the route that matched ("/api/v1/models/{model}"), or None."""
    template: str | None = getattr(scope.get("route"), "path", None)
    return template


def _offered_id(scope: Scope) -> bytes | None:
    value: bytes
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value
    return None
