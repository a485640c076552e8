"""KServe's V1 protocol, as far as it is not TensorFlow Serving's too: the list of models, and `:explain`."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api import explanation
from app.api.bodies import gather_body
from app.api.deadlines import TIMEOUT, parse_deadline
from app.api.departure import Departure
from app.api.pools import run_in
from app.api.production import production
from app.api.protocols.encoded import check_head, parse_object, weight
from app.api.protocols.failures import ErrorText
from app.api.protocols.inputs import Inputs
from app.api.protocols.routing import ProtocolRoute
from app.api.protocols.rows import located
from app.api.routes import requires
from app.api.services import services_of
from app.errors import InvalidImage, InvalidRequest
from app.names import check_name
from app.serving.tensors import Image

MOST_EXPLAINED = 8
"""Images of one request: each takes some tenths of a second, and others wait."""


@requires("predict", "train")
async def models(request: Request) -> Response:
    """Names of all models."""
    names = [status.model for status in services_of(request.scope).classifier.status().models]
    return JSONResponse({"models": names}, headers={"Cache-Control": "no-store"})


@requires("predict")
async def explain(request: Request) -> Response:
    """Grad-CAM for the class that is answered, image by image."""
    services = services_of(request.scope)
    settings = services.settings
    model = check_name(request.path_params["model"], "model")
    check_head(request.headers)
    deadline = parse_deadline(request.headers.get(TIMEOUT), settings)
    inputs = Inputs(min(MOST_EXPLAINED, settings.max_files))
    explanations: list[dict[str, Any]] = []
    with services.explaining.place(), Departure(request.receive, settings.body_timeout, deadline) as departure:
        with services.bodies.hold() as take:
            body = await gather_body(request.receive, request.headers, settings.max_body_bytes, take)
            departure.body_came()
            take(weight(body))
            images = await asyncio.to_thread(_images, inputs, body)
            del body
        version = await production(services, model)
        manifest = await asyncio.to_thread(services.registry.manifest, model, version)
        inputs.names.check(model, manifest.input.name)
        question = services.explaining.question(method="gradcam", model=model, version=version)
        for index, image in enumerate(images):
            try:
                found, picture = await run_in(
                    services.pools.explaining, explanation.explain, services, question, image, deadline
                )
            except (InvalidImage, InvalidRequest) as error:
                raise located(error, index, len(images)) from None
            explanations.append(
                {
                    "label": found.label,
                    "probability": found.probability,
                    "layer": found.layer,
                    "picture": {"b64": base64.b64encode(picture).decode("ascii")},
                }
            )
    return JSONResponse({"explanations": explanations}, headers={"Cache-Control": "no-store"})


def routes() -> list[ProtocolRoute]:
    """Its routes."""
    failures = ErrorText()
    return [
        ProtocolRoute("/v1/models", models, failures),
        ProtocolRoute("/v1/models/{model}:explain", explain, failures, methods=["POST"]),
    ]


def _images(inputs: Inputs, body: bytes) -> list[Image]:
    document = parse_object(body)
    if unknown := sorted(set(document) - {"instances"}):
        raise InvalidRequest(f"Unknown field {unknown[0][:40]!r}. Allowed: instances.")
    return inputs.rows(document.get("instances"), "instances")
