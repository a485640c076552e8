"""The page that Prometheus reads, and what keeps the pages of all processes fresh."""

from __future__ import annotations

import asyncio
import logging

from starlette.requests import Request
from starlette.responses import Response

from app.api.pools import run_in
from app.api.routes import PlainRoute, public
from app.api.services import services_of
from app.metrics import Metrics

logger = logging.getLogger(__name__)

# How old what one process counted may be on a page that another one gives.
_FLUSH_SECONDS = 0.25
_OPENMETRICS = "application/openmetrics-text"
_TEXT = "text/plain"


# Open like the probes: Prometheus scrapes from inside the network, and nothing here is secret.
@public
async def metrics(request: Request) -> Response:
    """All metrics, in the text format of OpenMetrics for those who ask for it, else in Prometheus' own.

    `docs/metrics.md` lists them.
    """
    services = services_of(request.scope)
    page = services.metrics
    openmetrics = prefers_openmetrics(request.headers.get("accept", ""))
    body = await run_in(services.pools.scraping, page.render, openmetrics=openmetrics)
    kind = page.openmetrics_type if openmetrics else page.content_type
    return Response(body, headers={"Content-Type": kind, "Cache-Control": "no-store", "Vary": "Accept"})


def routes() -> list[PlainRoute]:
    """The one route."""
    return [PlainRoute("/metrics", metrics)]


async def flush_regularly(metrics: Metrics) -> None:
    """Add up what was recorded, until cancelled; a failure is logged once and does not end it."""
    failed = False
    while True:
        await asyncio.sleep(_FLUSH_SECONDS)
        try:
            metrics.flush()
        except Exception:
            if not failed:
                logger.exception("Metrics could not be added up; it is tried again four times a second.")
            failed = True
        else:
            failed = False


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept header names OpenMetrics, and text no more than it. Prometheus does; browsers do not."""
    weights = {_OPENMETRICS: 0.0, _TEXT: 0.0}
    for choice in accept.split(","):
        kind, *parameters = (part.strip().lower() for part in choice.split(";"))
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    return weights[_OPENMETRICS] > 0 and weights[_OPENMETRICS] >= weights[_TEXT]


def _weight(parameters: list[str]) -> float:
    """The q of a choice (RFC 9110, 12.4.2); 0 if it is none."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0
