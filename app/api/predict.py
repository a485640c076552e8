"""`POST /api/v1/predict`: images in, labels and probabilities out.

The hot route: a plain ASGI application, since a FastAPI route costs four times a bare one.
Its operation in the OpenAPI document is written by hand, in `app.api.predict_document`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import orjson
from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from app.api import errors
from app.api.bodies import (
    RAW_TYPES,
    File,
    Limits,
    MultipartFiles,
    gather_body,
    media_type,
    printable,
    stream_body,
)
from app.api.deadlines import TIMEOUT, parse_deadline
from app.api.departure import Departure
from app.api.errors import UnsupportedMediaType, request_id_of
from app.api.routes import PlainRoute, check_query, requires
from app.api.services import services_of
from app.api.ways import Head, Reply, Way
from app.errors import DeadlineExceeded, FoveaError, InvalidImage, InvalidRequest
from app.names import check_name
from app.preprocessing import Float32Array
from app.serving.classifier import Answer
from app.serving.tensors import Image
from app.serving.ticket import Stage
from app.settings import Settings

PATH = "/api/v1/predict"
PARAMETERS = ("model", "version", "top_k")
DEFAULT_TOP_K = 5

_JSON = (b"content-type", b"application/json")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
# Up to here sorting in Python is faster than in NumPy.
_FEW_CLASSES = 64


@dataclass(frozen=True)
class Query:
    """What the query string asks for."""

    model: str | None
    version: int | Literal["production"]
    top_k: int
    """0: all classes."""


@requires("predict")
class Predict:
    """The ASGI application behind the route. Raises the domain's errors."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or raise the domain's error."""
        begin = time.perf_counter()
        services = services_of(scope)
        settings = services.settings
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            query = parse_query(scope)
            deadline = parse_deadline(headers.get(TIMEOUT), settings)
            services.classifier.check_admission(model=query.model, version=query.version, deadline=deadline)
        finally:
            # Of those that are refused too: they are the most when it matters.
            admitted = time.perf_counter()
            services.metrics.stage("admission", admitted - begin)
        stages: list[Stage] | None = scope.get("fovea.stages")
        read: float | None = None
        try:
            with services.bodies.hold() as take, Departure(receive, settings.body_timeout, deadline) as departure:
                files = await read_images(receive, headers, settings, take)
                departure.body_came()
                read = time.perf_counter()
                answer = await services.classifier.classify(
                    [file.take() for file in files],
                    model=query.model,
                    version=query.version,
                    deadline=deadline,
                    stages=stages,
                )
        except DeadlineExceeded as error:
            if read is None:
                # The classifier, which counts those that it gave up, has not seen it.
                services.metrics.rejected(error.code)
            raise
        answered = time.perf_counter()
        body = render_answer(answer, [file.name for file in files], query.top_k, request_id_of(scope))
        length = (b"content-length", str(len(body)).encode())
        await send({"type": "http.response.start", "status": 200, "headers": [_JSON, length]})
        await send({"type": "http.response.body", "body": body})
        sent = time.perf_counter()
        metrics = services.metrics
        metrics.stage("read", read - admitted)
        metrics.stage("render", sent - answered)
        if stages is not None:
            scope["fovea.model"], scope["fovea.version"] = answer.model, answer.version
            stages += [("admission", begin, admitted), ("read", admitted, read), ("render", answered, sent)]


class Lone:
    """A request of one image, which is its body; as `app.api.ways.Inquiry`."""

    def __init__(self, head: Head) -> None:
        query = parse_query({"query_string": head.query})
        self.model = query.model
        self.version = query.version
        self._top_k = query.top_k
        kind = media_type(head.headers)
        if not is_image(kind):
            raise _unsupported(kind)

    def images(self, body: bytes) -> Sequence[Image]:
        """The body."""
        return (body,)

    def render(self, answer: Answer, request_id: str) -> Reply:
        """As `render_answer`."""
        return Reply(render_answer(answer, [None], self._top_k, request_id))


def lone() -> Way:
    """The way of such a request past ASGI; on the ordinary one `Predict` takes all kinds of bodies."""
    return Way(PATH, Lone, errors)


def route() -> PlainRoute:
    """The route."""
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
        version=parse_version(parameters.get("version", "production")),
        top_k=_top_k(parameters.get("top_k", str(DEFAULT_TOP_K))),
    )


async def read_images(
    receive: Receive, headers: Mapping[str, str], settings: Settings, take: Callable[[int], None]
) -> list[File]:
    """The images of the body, in the order sent: the body itself, or the parts of a multipart one.

    `take` is told of the size of each piece that is held from now on.

    Raises:
        InvalidRequest: there is no image, or the multipart body is wrong.
        UnsupportedMediaType: naming what is allowed.
        PayloadTooLarge, RequestTimeout, ClientGone: see `app.api.bodies`. Time for a body that is itself the image
            is the caller's to limit.
    """
    kind = media_type(headers)
    if kind == "multipart/form-data":
        limits = Limits(settings.max_body_bytes, settings.body_timeout)
        parser = MultipartFiles(headers["content-type"], max_files=settings.max_files)
        async for chunk in stream_body(receive, headers, limits, take):
            parser.feed(chunk)
        parser.finish()
        files = parser.files
    elif is_image(kind):
        body = await gather_body(receive, headers, settings.max_body_bytes, take)
        files = [File(None, [body])] if body else []
    else:
        raise _unsupported(kind)
    if not files:
        raise InvalidRequest(
            "There is no image in the request. Send one as the body, or any number as files of a multipart/form-data "
            "body: curl --data-binary @photo.jpg, or curl -F file=@photo.jpg."
        )
    return files


def is_image(kind: str) -> bool:
    """Whether a body of a media type is itself the image; empty: of none that was named."""
    return kind == "" or kind.startswith("image/") or kind in RAW_TYPES


def _unsupported(kind: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"Content-Type {printable(kind)!r} is not accepted here. Allowed: image/*, application/octet-stream, "
        "or multipart/form-data with one file an image."
    )


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
            predictions.append({"name": label, **_prediction(result, answer, top_k)})
    document = {"model": answer.model, "version": answer.version, "id": request_id, "predictions": predictions}
    return orjson.dumps(document)


def _prediction(probabilities: Float32Array, answer: Answer, top_k: int) -> dict[str, Any]:
    labels = answer.labels
    # Stable, so that equal probabilities stand in the order of the classes.
    if len(labels) <= _FEW_CLASSES:
        values = probabilities.tolist()
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[: top_k or None]
        top = [{"label": labels[i], "class_index": i, "probability": values[i]} for i in order]
    else:
        order = _first(probabilities, top_k or len(labels))
        top = [{"label": labels[i], "class_index": i, "probability": float(probabilities[i])} for i in order]
    highest: float = top[0]["probability"]
    if answer.unknown_below is None:
        return {"label": top[0]["label"], "probability": highest, "top": top}
    return {
        "label": top[0]["label"],
        "probability": highest,
        "unknown": highest < answer.unknown_below,
        "top": top,
    }


def _first(probabilities: Float32Array, count: int) -> list[int]:
    """Places of the largest values, the largest first, equals in their order; cheaper than to sort all."""
    values = -probabilities
    if count < len(values):
        # All that are no less than the last that is wanted; where some equal it, perhaps more than are wanted.
        among = (values <= np.partition(values, count - 1)[count - 1]).nonzero()[0]
        order = among[values[among].argsort(kind="stable")][:count]
    else:
        order = values.argsort(kind="stable")
    places: list[int] = order.tolist()
    return places


def parse_version(text: str) -> int | Literal["production"]:
    """Read the parameter `version`.

    Raises:
        InvalidRequest: it is neither a number nor `production`.
    """
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
