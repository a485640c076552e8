"""The part of the API that FastAPI does: the routes that are called rarely, and the document of all of it.

To import it takes as long as to load a model, so nothing that answers predict requests and probes may import it:
`app.api.application` builds it beside the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

import app as package
from app.api import datasets, docs, error_handlers, explain, models, openapi, training_jobs
from app.api.protocols import documents
from app.api.routes import PlainRoute
from app.api.services import Services

_DESCRIPTION = """Post an image: labels with softmax probabilities come back from a versioned model. Post a labelled
folder: it trains, evaluates and registers the next version, which goes live without a dropped request.

Errors are problem documents (RFC 9457); [their codes](/docs/errors). Where keys are on, send
`Authorization: Bearer KEY` or `X-API-Key: KEY`."""

_TAGS = [
    {"name": "predict", "description": "Images in, labels and probabilities out."},
    {"name": "models", "description": "Versions, what they were measured at, and which of them answers."},
    {"name": "datasets", "description": "Labelled images to train on."},
    {"name": "training", "description": "Jobs that make the next version."},
    documents.TAG,
    {"name": "health", "description": "Probes and metrics."},
]


class Framework(FastAPI):
    """FastAPI with an OpenAPI document that also has what is no FastAPI route."""

    def openapi(self) -> dict[str, Any]:
        """The document, built once."""
        if self.openapi_schema is None:
            self.openapi_schema = openapi.build(self)
        return self.openapi_schema


def build(services: Services, plain: Iterable[PlainRoute]) -> Framework:
    """The application of all routes, `plain` ones included: their document, and what they do not take.

    Raises:
        RuntimeError: a route does not declare who may use it.
    """
    framework = Framework(
        title="Fovea",
        version=package.__version__,
        summary="Image classification as a service you run yourself.",
        description=_DESCRIPTION,
        openapi_tags=_TAGS,
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=error_handlers.handlers(),
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    framework.state.services = services
    # Plain routes before all others: routes are tried in order.
    framework.router.routes.extend([*plain, *docs.routes()])
    for router in (models.router, explain.router, datasets.router, training_jobs.router):
        framework.router.routes.extend(router.routes)
    return framework
