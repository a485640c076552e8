"""Amazon SageMaker's contract for containers: `GET /ping` and `POST /invocations`.

Source: "Custom Inference Code with Hosting Services" of SageMaker's developer guide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.api.bodies import RAW_TYPES, media_type, printable
from app.api.errors import NotAcceptable, UnsupportedMediaType
from app.api.protocols.encoded import check_count, check_head, parse_object, weight
from app.api.protocols.failures import ErrorText
from app.api.protocols.fields import check_fields
from app.api.protocols.inputs import Inputs
from app.api.protocols.npy import read_npy, write_npy
from app.api.protocols.routing import ProtocolRoute
from app.api.protocols.rows import rows_of
from app.api.routes import public
from app.api.services import services_of
from app.api.ways import JSON, Head, Reply, Way
from app.errors import InvalidRequest
from app.names import check_name
from app.preprocessing import Float32Array
from app.serving.classifier import Answer
from app.serving.tensors import Image, Tensor

NPY, CSV = b"application/x-npy", b"text/csv"
IMAGE_TYPES = ("application/x-image", *RAW_TYPES)
TARGET = "x-amzn-sagemaker-target-model"

_AS_IMAGE = "Send it with Content-Type: application/x-image."
_QUALITY = re.compile(r"[01](\.[0-9]{0,3})?")
_ALLOWED = "image/*, application/x-image, application/octet-stream, application/json or application/x-npy"


class Invocation:
    """A request to `/invocations`; as `app.api.ways.Inquiry`."""

    def __init__(self, head: Head, model: str | None = None) -> None:
        """`model`: the one that is asked; else the header says, or it is the default."""
        self.model = model or _target(head.headers)
        self.version: int | Literal["production"] = "production"
        check_head(head.headers)
        self._kind = media_type(head.headers)
        if not (is_image(self._kind) or self._kind in ("application/json", "application/x-npy")):
            raise UnsupportedMediaType(
                f"Content-Type {printable(self._kind)!r} is not accepted here. Allowed: {_ALLOWED}."
            )
        self._accepted = accepted(head.headers.get("accept", ""))
        self._inputs = Inputs(head.most)
        self._most = head.most

    def images(self, body: bytes) -> Sequence[Image]:
        if not body:
            raise InvalidRequest(f"The body is empty. It has to be an image or a tensor: {_ALLOWED}.")
        if self._kind == "application/json":
            document = parse_object(body, _AS_IMAGE)
            check_fields(document, ("instances",))
            return self._inputs.rows(document.get("instances"), "instances")
        if self._kind == "application/x-npy":
            array = read_npy(body)
            images = array if array.ndim == 4 else array[np.newaxis]
            check_count(len(images), self._most)
            return [Tensor(image, typed=False) for image in images]
        return (body,)

    def render(self, answer: Answer, request_id: str) -> Reply:
        self._inputs.names.check(answer.model, answer.input)
        return Reply(_RENDERERS[self._accepted](answer, rows_of(answer)), self._accepted)


# Clients send the same few.
@lru_cache(maxsize=64)
def accepted(header: str) -> bytes:
    """The media type of the answer that a client accepts, by the header `Accept`: JSON where it has no other wish.

    Raises:
        NotAcceptable: none of ours is among them.
    """
    offers: list[tuple[float, str]] = []
    for part in header.split(",") if header.strip() else ["*/*"]:
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        given = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        offers.append((float(given) if _QUALITY.fullmatch(given) else 1.0, kind))
    # The sort is stable: of equal wishes the first counts.
    for quality, kind in sorted(offers, key=lambda offer: -offer[0]):
        for ours in _RENDERERS:
            text = ours.decode()
            if quality > 0 and kind in (text, "*/*", f"{text.partition('/')[0]}/*"):
                return ours
    raise NotAcceptable(
        f"Accept: {printable(header)!r} has none of the types that there are. "
        f"Allowed: {', '.join(kind.decode() for kind in _RENDERERS)}, or */*."
    )


def is_image(kind: str) -> bool:
    """Whether a body of a media type is itself an image; empty: of none that was named."""
    return kind == "" or kind.startswith("image/") or kind in IMAGE_TYPES


@public
async def ping(request: Request) -> Response:
    """200 when every model in production can be answered for; else 503. On a multi-model endpoint there may be none."""
    services = services_of(request.scope)
    classifier = services.classifier
    ready = classifier.ready if services.settings.multi_model is None else classifier.started
    ready = ready and services.crew.complete and not services.lifecycle.stopping
    return Response(status_code=200 if ready else 503, headers={"Cache-Control": "no-store"})


def ways() -> list[Way]:
    """The route that answers images."""
    return [Way("/invocations", Invocation, ErrorText(), weight=body_weight)]


def body_weight(head: Head, body: bytes) -> int:
    """Bytes of memory that a body may take, besides its own, when it is parsed: only JSON is."""
    return weight(body) if media_type(head.headers) == "application/json" else 0


def routes() -> list[ProtocolRoute]:
    """All other routes."""
    return [ProtocolRoute("/ping", ping, ErrorText())]


def _target(headers: Mapping[str, str]) -> str | None:
    """The model that the header names. SageMaker says there which archive is meant; to answer for another is worse
    than an error."""
    target = headers.get(TARGET)
    return None if target is None else check_name(target.lstrip("/").removesuffix(".tar.gz"), "model")


def _json(answer: Answer, rows: list[Float32Array]) -> bytes:
    document = {
        "predictions": [row.tolist() for row in rows],
        "labels": answer.labels,
        "model": answer.model,
        "version": answer.version,
    }
    return orjson.dumps(document)


def _csv(_answer: Answer, rows: list[Float32Array]) -> bytes:
    return "".join(f"{','.join(map(repr, row.tolist()))}\n" for row in rows).encode()


# The first is the one where anything will do.
_RENDERERS: dict[bytes, Callable[[Answer, list[Float32Array]], bytes]] = {
    JSON: _json,
    NPY: lambda _, rows: write_npy(np.stack(rows)),
    CSV: _csv,
}
