"""`POST /api/v1/predict`: images in, labels and probabilities out.

The hot route: a plain ASGI application, since a FastAPI route costs four times a bare one.
Its operation in the OpenAPI document is written by hand, in `app.api.predict_document`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from starlette.datastructures import Headers, QueryParams
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.bodies import (
    RAW_TYPES,
    File,
    Limits,
    MultipartFiles,
    media_type,
    printable,
    read_body,
    stream_body,
)
from app.api.errors import ClientGone, UnsupportedMediaType, request_id_of
from app.api.routes import PlainRoute, check_query, requires
from app.api.services import Services, services_of
from app.errors import FoveaError, InvalidImage, InvalidRequest
from app.names import check_name
from app.preprocessing import Float32Array
from app.serving.classifier import Answer
from app.settings import Settings

PATH = "/api/v1/predict"
PARAMETERS = ("model", "version", "top_k")
DEFAULT_TOP_K = 5

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Query:
    """What the query string asks for."""

    model: str | None
    version: int | Literal["production"]
    top_k: int
    """0: all classes."""


@requires("predict")
class Predict:
    """The ASGI application behind the route."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise the domain's error."""
        services = services_of(scope)
        query = parse_query(scope)
        with services.bodies.hold() as take:
            with services.metrics.timed("read"):
                files = await read_images(receive, Headers(scope=scope), services.settings, take)
            answer = await _classify(services, [file.take() for file in files], query, receive)
        with services.metrics.timed("render"):
            body = render_answer(answer, [file.name for file in files], query.top_k, request_id_of(scope))
        await Response(body, media_type="application/json")(scope, receive, send)


def route() -> PlainRoute:
    """The route, to stand before all others: routes are tried in order."""
    return PlainRoute(PATH, Predict(), methods=["POST"])


def parse_query(scope: Scope) -> Query:
    """Read the query string.

    Raises:
        InvalidRequest: an unknown parameter, or a value that is not allowed; the message says what is.
        InvalidName: for the model's name.
    """
    if not scope["query_string"]:
        return Query(None, "production", DEFAULT_TOP_K)
    check_query(scope, PARAMETERS)
    parameters = QueryParams(scope["query_string"])
    for name in PARAMETERS:
        if len(parameters.getlist(name)) > 1:
            raise InvalidRequest(f"The query parameter {name!r} is there more than once.")
    model = parameters.get("model")
    return Query(
        model=None if model is None else check_name(model, "model"),
        version=_version(parameters.get("version", "production")),
        top_k=_top_k(parameters.get("top_k", str(DEFAULT_TOP_K))),
    )


async def read_images(
    receive: Receive, headers: Headers, settings: Settings, take: Callable[[int], None]
) -> list[File]:
    """The images of the body, in the order sent: the body itself, or the parts of a multipart one.

    `take` is told of the size of each piece that is held from now on.

    Raises:
        InvalidRequest: there is no image, or the multipart body is wrong.
        UnsupportedMediaType: naming what is allowed.
        PayloadTooLarge, RequestTimeout, ClientGone: see `app.api.bodies`.
    """
    limits = Limits(settings.max_body_bytes, settings.body_timeout)
    kind = media_type(headers)
    if kind == "multipart/form-data":
        parser = MultipartFiles(headers["content-type"], max_files=settings.max_files)
        async for chunk in stream_body(receive, headers, limits, take):
            parser.feed(chunk)
        parser.finish()
        files = parser.files
    elif kind == "" or kind.startswith("image/") or kind in RAW_TYPES:
        body = await read_body(receive, headers, limits, take)
        files = [File(None, [body])] if body else []
    else:
        raise UnsupportedMediaType(
            f"Content-Type {printable(kind)!r} is not accepted here. Allowed: image/*, application/octet-stream, "
            "or multipart/form-data with one file an image."
        )
    if not files:
        raise InvalidRequest(
            "There is no image in the request. Send one as the body, or any number as files of a multipart/form-data "
            "body: curl --data-binary @photo.jpg, or curl -F file=@photo.jpg."
        )
    return files


def render_answer(answer: Answer, names: Sequence[str | None], top_k: int, request_id: str | None) -> bytes:
    """The JSON of an answer, in the order sent.

    Raises:
        FoveaError: the error of an image, if it was the only one; or one that is no image's fault.
    """
    predictions: list[dict[str, Any]] = []
    for index, (name, result) in enumerate(zip(names, answer.results, strict=True)):
        label = name or ("image" if len(names) == 1 else f"image-{index + 1}")
        if isinstance(result, FoveaError):
            if len(names) == 1 or not isinstance(result, InvalidImage):
                raise result
            predictions.append({"name": label, "error": {"code": result.code, "detail": str(result)}})
        else:
            predictions.append({"name": label, **_prediction(result, answer.labels, top_k)})
    document = {"model": answer.model, "version": answer.version, "id": request_id, "predictions": predictions}
    return json.dumps(document, allow_nan=False, separators=(",", ":")).encode()


def _prediction(probabilities: Float32Array, labels: Sequence[str], top_k: int) -> dict[str, Any]:
    # Stable, so that equal probabilities stand in the order of the classes.
    order = np.argsort(-probabilities, kind="stable")[: top_k or None]
    top = [
        {"label": labels[index], "class_index": int(index), "probability": float(probabilities[index])}
        for index in order
    ]
    return {"label": top[0]["label"], "probability": top[0]["probability"], "top": top}


async def _classify(services: Services, images: list[bytes], query: Query, receive: Receive) -> Answer:
    """Classify, unless the client goes away first: then its place in the queue is given up.

    Raises:
        ClientGone: it did.
    """
    work = asyncio.ensure_future(services.classifier.classify(images, model=query.model, version=query.version))
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        work.cancel()
        watch.cancel()


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _version(text: str) -> int | Literal["production"]:
    if text == "production":
        return "production"
    if _NUMBER.fullmatch(text) is None:
        raise InvalidRequest(
            f"version={printable(text[:40])!r} is not allowed. Allowed: a version's number, or 'production'."
        )
    return int(text)


def _top_k(text: str) -> int:
    if text != "0" and _NUMBER.fullmatch(text) is None:
        raise InvalidRequest(
            f"top_k={printable(text[:40])!r} is not allowed. Allowed: a whole number from 0 up; 0 lists all classes."
        )
    return int(text)
