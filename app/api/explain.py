"""Looks into models: what of an image a class rests on, what layers answer to it, and what the first one looks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from pydantic import BaseModel, Field

from app.api import explanation
from app.api.deadlines import TIMEOUT, parse_deadline
from app.api.departure import Departure
from app.api.examples import answer, binary, files
from app.api.guarded import GuardedRoute
from app.api.openapi import problems
from app.api.pools import run_in
from app.api.predict import parse_version, read_images
from app.api.predict_document import IMAGE, IMAGE_PROBLEMS
from app.api.production import production
from app.api.routes import requires
from app.api.sandbox import SANDBOX
from app.api.services import services_of
from app.errors import InvalidRequest
from app.explanations import Findings, Layer
from app.names import check_name

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=GuardedRoute)

Model = Annotated[str, PathParameter(description="Name of a model.", examples=["cifar10"])]
Version = Annotated[str, PathParameter(description="A version's number, or `production`.", examples=["production"])]

_ADDRESS = "http://127.0.0.1:8000/api/v1/models/cifar10/explain"
# Fit for a header besides letters and digits.
_PLAIN = " !#$&'()*+,-./:;<=>?@[]^_{|}~"

_FAILURES = (
    "invalid_name",
    "model_not_found",
    "version_not_found",
    "version_refused",
    "not_explainable",
    "validation_failed",
    "overloaded",
    "inference_failed",
    "explain_unavailable",
    "not_ready",
    "deadline_exceeded",
    "storage_failed",
)
_LAYERS: dict[str, Any] = {
    "model": "cifar10",
    "version": 1,
    "default": "add_3",
    "layers": [
        {"name": "conv2d_1", "kind": "convolution", "height": 32, "width": 32, "channels": 24},
        {"name": "re_lu_1", "kind": "activation", "height": 32, "width": 32, "channels": 24},
        {"name": "max_pooling2d_1", "kind": "pooling", "height": 16, "width": 16, "channels": 56},
        {"name": "add_3", "kind": "other", "height": 4, "width": 4, "channels": 192},
    ],
}


class LayerList(BaseModel):
    """The layers of a version that answer with maps, from the image to the answer."""

    model: str
    version: int
    default: str = Field(description="The one that Grad-CAM looks at unless told otherwise.")
    layers: list[Layer]


def _text(description: str, example: str) -> dict[str, Any]:
    return {"description": description, "schema": {"type": "string"}, "example": example}


_HEADERS = {
    "Fovea-Model": _text("Model that was looked into.", "cifar10"),
    "Fovea-Version": _text("Version of it.", "1"),
    "Fovea-Layer": _text("Layer that was looked at.", "add_3"),
    "Fovea-Label": _text("`gradcam`: the class that was looked for; other than ASCII as %XX of UTF-8.", "cat"),
    "Fovea-Probability": _text("`gradcam`: the version's probability for it.", "0.8841"),
}


@router.post(
    "/{model}/explain",
    summary="Explain what a model sees in an image",
    response_class=Response,
    responses={
        200: {"description": "The picture.", "headers": _HEADERS, "content": {"image/png": {}}},
        **problems(
            *_FAILURES,
            "invalid_request",
            "layer_not_found",
            *IMAGE_PROBLEMS,
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "One image, in any form that `POST /api/v1/predict` takes.",
            "content": {
                "image/*": {
                    "schema": IMAGE,
                    "examples": binary(
                        "cat.jpg", f"curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' {_ADDRESS} > cat.png"
                    ),
                },
                "application/octet-stream": {
                    "schema": IMAGE,
                    "examples": binary("cat.jpg", f"curl --data-binary @cat.jpg {_ADDRESS} > cat.png"),
                },
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": IMAGE}},
                    "examples": files(f"curl -F file=@cat.jpg {_ADDRESS} > cat.png", "cat.jpg"),
                },
            },
        }
    },
)
@requires("predict")
async def explain(
    request: Request,
    model: Model,
    method: Annotated[
        Literal["gradcam", "activations"],
        Query(description="`gradcam`: the places that speak for a class. `activations`: a layer's maps."),
    ] = "gradcam",
    version: Annotated[
        str, Query(description="A version's number, or `production`.", examples=["production"])
    ] = "production",
    layer: Annotated[
        str | None,
        Query(
            description="A layer's name, out of the version's `layers`. Unset: `default` of these for Grad-CAM, "
            "the first one for its maps.",
            examples=["add_3"],
        ),
    ] = None,
    label: Annotated[
        str | None,
        Query(description="With `gradcam`: the class to look for. Unset: the one that is answered.", examples=["cat"]),
    ] = None,
) -> Response:
    """A picture of what a version sees in an image, as PNG.

    `gradcam` lays over the image, in the size that the network saw it in and enlarged, how much each place speaks for
    a class: red most, then yellow and green. `activations` has every map of a layer, of more than 256 those that vary
    most. The first picture takes some seconds, until TensorFlow is there.
    """
    services = services_of(request.scope)
    settings = services.settings
    check_name(model, "model")
    number = parse_version(version)
    if label is not None and method != "gradcam":
        raise InvalidRequest("label goes with method=gradcam only: maps are the same whatever class one looks for.")
    deadline = parse_deadline(request.headers.get(TIMEOUT), settings)
    with (
        services.explaining.place(),
        services.bodies.hold() as take,
        Departure(request.receive, settings.body_timeout, deadline) as departure,
    ):
        images = await read_images(request.receive, request.headers, settings, take)
        departure.body_came()
        if len(images) > 1:
            raise InvalidRequest(f"One image can be explained at a time; the request has {len(images)}.")
        data = images[0].take()
        if number == "production":
            number = await production(services, model)
        question = services.explaining.question(method=method, model=model, version=number, layer=layer, label=label)
        explaining = services.pools.explaining
        found, picture = await run_in(explaining, explanation.explain, services, question, data, deadline)
    return Response(
        picture, headers={**_found(model, number, found), "Cache-Control": "no-store"}, media_type="image/png"
    )


@router.get(
    "/{model}/versions/{version}/filters",
    summary="Show a version's first filters",
    response_class=Response,
    responses={
        200: {
            "description": "The filters of the first convolution, each on its own scale, with middle grey as 0.",
            "headers": {name: _HEADERS[name] for name in ("Fovea-Model", "Fovea-Version", "Fovea-Layer")},
            "content": {"image/png": {}},
        },
        **problems(*_FAILURES, "invalid_request"),
    },
)
@requires("predict", "train")
async def get_filters(request: Request, model: Model, version: Version) -> Response:
    """What the first convolution looks for, as PNG: edges, colours, spots. Deeper ones see no colours but maps."""
    number, found, picture = await _ask(request, model, version, "filters")
    headers = {**_found(model, number, found), **SANDBOX}
    if version == "production":
        # Another version may be that in a moment.
        headers["Cache-Control"] = "no-store"
    return Response(picture, headers=headers, media_type="image/png")


@router.get(
    "/{model}/versions/{version}/layers",
    summary="List a version's layers",
    responses={**answer("The layers.", layers=_LAYERS), **problems(*_FAILURES, "invalid_request")},
)
@requires("predict", "train")
async def list_layers(request: Request, model: Model, version: Version) -> LayerList:
    """The layers that can be looked at, from the image to the answer, and the one that Grad-CAM looks at by default."""
    number, found, _ = await _ask(request, model, version, "layers")
    return LayerList(model=model, version=number, default=found.layer or "", layers=found.layers)


async def _ask(request: Request, model: str, version: str, method: str) -> tuple[int, Findings, bytes]:
    """The version's number, and what is asked about it."""
    services = services_of(request.scope)
    check_name(model, "model")
    number = parse_version(version)
    deadline = parse_deadline(request.headers.get(TIMEOUT), services.settings)
    with services.explaining.place(), Departure(request.receive, math.inf, deadline) as departure:
        departure.body_came()
        if number == "production":
            number = await production(services, model)
        question = services.explaining.question(method=method, model=model, version=number)
        found, picture = await run_in(
            services.pools.explaining, explanation.explain, services, question, None, deadline
        )
    return number, found, picture


def _found(model: str, version: int, found: Findings) -> Mapping[str, str]:
    headers = {"Fovea-Model": model, "Fovea-Version": str(version)}
    if found.layer is not None:
        headers["Fovea-Layer"] = quote(found.layer, safe=_PLAIN)
    if found.label is not None:
        headers["Fovea-Label"] = quote(found.label, safe=_PLAIN)
    if found.probability is not None:
        headers["Fovea-Probability"] = f"{found.probability:.4f}"
    return headers
