"""The page that Prometheus reads."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from app.api.pools import run_in
from app.api.routes import PlainRoute, public
from app.api.services import services_of


# Open like the probes: Prometheus scrapes from inside the network, and nothing here is secret.
@public
async def metrics(request: Request) -> Response:
    """All metrics, in Prometheus' text format; `docs/metrics.md` lists them."""
    services = services_of(request.scope)
    page = services.metrics
    body = await run_in(services.pools.scraping, page.render)
    return Response(body, headers={"Content-Type": page.content_type, "Cache-Control": "no-store"})


def routes() -> list[PlainRoute]:
    """The one route."""
    return [PlainRoute("/metrics", metrics)]
