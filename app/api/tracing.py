"""OpenTelemetry traces: a span for each request, and within it one for each stage. Only with FOVEA_TRACING=otlp.

While it is off, the OpenTelemetry packages (the extra `otel`) need not be there. While it is on, spans of stages are
made after the answer, from times that were taken on the way.

Conventions: https://www.w3.org/TR/trace-context/ and https://opentelemetry.io/docs/specs/semconv/http/http-spans/
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from starlette.types import Scope

import app as package
from app.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

StageTime = tuple[str, float, float]
"""Name, begin and end, in seconds of `time.perf_counter`."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# A request of a thousand images shall not fill the exporter's queue alone.
_MOST_STAGES = 100
_LONGEST_PATH = 256
# A collector that hangs shall not use up the grace that an orchestrator gives.
_STOP_SECONDS = 3.0


class Tracing:
    """Makes traces and sends them to a collector, by OTLP over HTTP; the OTEL_* variables say where and how many."""

    def __init__(self) -> None:
        """Nothing is started or sent yet.

        Raises:
            ConfigurationError: the packages are not installed.
        """
        try:
            import opentelemetry.exporter.otlp.proto.http.trace_exporter
            import opentelemetry.sdk.trace.export  # noqa: F401
        except ImportError as error:
            raise ConfigurationError(
                f"FOVEA_TRACING=otlp needs OpenTelemetry, which is not installed ({error.name} is missing). Install "
                "`fovea[otel]`, or set FOVEA_TRACING=off."
            ) from error
        from opentelemetry.trace import NoOpTracer
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._propagator = TraceContextTextMapPropagator()
        self._provider: TracerProvider | None = None
        self._tracer: Tracer = NoOpTracer()

    def start(self) -> None:
        """Begin to send; a thread of the exporter's own does it, in batches."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        ours = {"service.name": "fovea", "service.version": package.__version__}
        resource = Resource.create({**ours, **OTELResourceDetector().detect().attributes})
        # Nothing global: another application in this process has its own.
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("fovea", package.__version__)

    async def stop(self) -> None:
        """Send what is left, for a few seconds at most."""
        if self._provider is not None:
            # The provider waits for up to half a minute. A thread that does not hold up the end of the process.
            sending = threading.Thread(target=self._provider.shutdown, name="last-traces", daemon=True)
            sending.start()
            await asyncio.to_thread(sending.join, _STOP_SECONDS)

    def begin(self, scope: Scope) -> Trace:
        """The trace of a request that begins now: the caller's, if its `traceparent` says so, else a new one."""
        from opentelemetry.context import Context
        from opentelemetry.trace import SpanKind

        method: str = scope["method"]
        attributes = {
            "http.request.method": method if method in _METHODS else "_OTHER",
            "url.path": scope["path"][:_LONGEST_PATH],
            "url.scheme": scope.get("scheme", "http"),
        }
        begin = time.perf_counter()
        began = time.time_ns()
        parent = self._propagator.extract(_carrier(scope), context=Context())
        span = self._tracer.start_span(
            attributes["http.request.method"],
            context=parent,
            kind=SpanKind.SERVER,
            attributes=attributes,
            start_time=began,
        )
        return Trace(span, self._tracer, method if method in _METHODS else "HTTP", begin, began)


class Trace:
    """The trace of one request. `finish` must be called once."""

    def __init__(self, span: Span, tracer: Tracer, method: str, begin: float, began: int) -> None:
        """`begin` and `began` are one moment, in seconds of `time.perf_counter` and nanoseconds since the epoch."""
        context = span.get_span_context()
        self.id: str | None = f"{context.trace_id:032x}" if context.is_valid else None
        """32 hexadecimal digits; None: OpenTelemetry is turned off by its own variables."""
        self.sampled = span.is_recording()
        """Whether it is sent at all."""
        self._span = span
        self._tracer = tracer
        self._method = method
        self._begin = begin
        self._began = began

    def finish(
        self,
        *,
        route: str | None,
        status: int | None,
        failure: str | None = None,
        stages: Sequence[StageTime] = (),
        attributes: Mapping[str, str | int] | None = None,
    ) -> None:
        """End the request's span now, with those of its stages in it.

        Args:
            route: the template that matched, if one did.
            status: of the answer; None: there was none.
            failure: why there was none, as a class of errors.
            stages: at most a hundred are kept.
            attributes: further ones of the request.
        """
        span = self._span
        if self.sampled:
            from opentelemetry.trace import StatusCode, set_span_in_context

            if route is not None:
                span.update_name(f"{self._method} {route}")
                span.set_attribute("http.route", route)
            if status is not None:
                span.set_attribute("http.response.status_code", status)
            if failure is not None or (status is not None and status >= 500):
                span.set_attribute("error.type", failure or str(status))
                span.set_status(StatusCode.ERROR)
            span.set_attributes(attributes or {})
            within = set_span_in_context(span)
            for name, begin, end in stages[:_MOST_STAGES]:
                child = self._tracer.start_span(name, context=within, start_time=self._since_epoch(begin))
                child.end(self._since_epoch(end))
        span.end(self._since_epoch(time.perf_counter()))

    def _since_epoch(self, seconds: float) -> int:
        return self._began + int((seconds - self._begin) * 1e9)


def _carrier(scope: Scope) -> dict[str, str]:
    """The headers that OpenTelemetry reads. Of two `traceparent`, neither counts."""
    parents = [value.decode("latin-1") for name, value in scope["headers"] if name == b"traceparent"]
    states = [value.decode("latin-1") for name, value in scope["headers"] if name == b"tracestate"]
    if len(parents) != 1:
        return {}
    return {"traceparent": parents[0], "tracestate": ",".join(states)} if states else {"traceparent": parents[0]}
