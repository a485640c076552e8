"""The three probes of an orchestrator."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.routes import PlainRoute, public
from app.api.services import services_of

_UNCACHED = {"Cache-Control": "no-store"}


@public
async def live(_request: Request) -> Response:
    """200 as long as the process can answer at all; a failure means: restart it."""
    return JSONResponse({"status": "live"}, headers=_UNCACHED)


@public
async def startup(request: Request) -> Response:
    """200 once the first look at every model is over in every process, whatever came of it."""
    services = services_of(request.scope)
    started = services.classifier.started and services.crew.complete
    return JSONResponse(
        {"status": "started" if started else "starting"}, status_code=200 if started else 503, headers=_UNCACHED
    )


@public
async def ready(request: Request) -> Response:
    """200 when every model in production can be answered for by every process; else 503 with the reasons."""
    services = services_of(request.scope)
    status = services.classifier.status()
    stopping = services.lifecycle.stopping
    complete = services.crew.complete
    is_ready = status.ready and complete and not stopping
    reason = status.reason if complete or status.reason else "Other processes are still loading the models."
    body: dict[str, Any] = {
        "status": "ready" if is_ready else "stopping" if stopping else "not ready",
        "reason": "The service is shutting down." if stopping else reason,
        "models": {
            model.model: {
                "state": model.state,
                "production": model.production,
                "serving": model.serving,
                "reason": model.reason,
            }
            for model in status.models
        },
    }
    return JSONResponse(body, status_code=200 if is_ready else 503, headers=_UNCACHED)


def routes() -> list[PlainRoute]:
    """Plain routes: probes come often, and have no parameters to check."""
    return [
        PlainRoute("/health/live", live),
        PlainRoute("/health/ready", ready),
        PlainRoute("/health/startup", startup),
    ]
