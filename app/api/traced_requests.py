"""Around every request, while tracing is on: its trace, and the trace's id in the log and as an example in the metrics.

What handles a request appends `(stage, begin, end)`, in seconds of `time.perf_counter`, to `scope["fovea.stages"]`,
which is there if the request's trace is sent. `scope["fovea.model"]` and `scope["fovea.version"]`, if set, become
attributes of its span.
"""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.observation import access, route_template
from app.api.tracing import Tracing
from app.metrics import Metrics

# Probes and scrapes come every few seconds and tell nothing.
_UNTRACED = ("/health/", "/metrics")
# Keys of the scope, and what their values are called in a trace.
_ATTRIBUTES = {
    "fovea.request_id": "fovea.request_id",
    "fovea.model": "fovea.model",
    "fovea.version": "fovea.model_version",
}

_trace_id: ContextVar[str | None] = ContextVar("fovea_trace_id", default=None)


class TracedRequests:
    """ASGI middleware, around all others; there only while tracing is on."""

    def __init__(self, app: ASGIApp, tracing: Tracing, metrics: Metrics) -> None:
        self._app = app
        self._tracing = tracing
        self._metrics = metrics
        access.addFilter(_name_trace)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Trace one request, or pass on what is none."""
        if scope["type"] != "http" or scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
            return
        trace = self._tracing.begin(scope)
        begin = time.perf_counter()
        if trace.sampled:
            scope["fovea.stages"] = []
        status: int | None = None
        # The answer of a client that went away is nobody's; the middleware within says so by sending none.
        failure: str | None = "client_gone"

        async def observed(message: Message) -> None:
            nonlocal status, failure
            if message["type"] == "http.response.start":
                status, failure = message["status"], None
            await send(message)

        token = _trace_id.set(trace.id)
        try:
            await self._app(scope, receive, observed)
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            _trace_id.reset(token)
            route = route_template(scope)
            trace.finish(
                route=route,
                status=status,
                failure=failure,
                stages=scope.get("fovea.stages", ()),
                attributes={_ATTRIBUTES[key]: scope[key] for key in _ATTRIBUTES if key in scope},
            )
            if trace.sampled and trace.id is not None:
                seconds = time.perf_counter() - begin
                self._metrics.exemplar(route=route, method=scope["method"], seconds=seconds, trace_id=trace.id)


def _name_trace(record: logging.LogRecord) -> bool:
    """A filter that lets everything through, and says in a line of the log which trace it belongs to."""
    record.trace_id = _trace_id.get()
    return True
