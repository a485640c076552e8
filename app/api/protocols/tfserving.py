"""TensorFlow Serving's REST API: `/v1/models/...:predict`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import orjson

from app.api.protocols.encoded import GROWTH, decode, is_encoded, parse_object, to_array
from app.api.protocols.failures import ErrorText
from app.api.ways import Head, Reply, Way
from app.errors import FoveaError, InvalidRequest, VersionNotFound
from app.names import check_name
from app.serving.classifier import Answer
from app.serving.tensors import Image, Tensor

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")
_FIELDS = ("signature_name", "instances", "inputs")


class Predict:
    """A request to `:predict`; as `app.api.ways.Inquiry`."""

    def __init__(self, head: Head) -> None:
        self.model = check_name(head.path["model"], "model")
        self.version = _version(head)
        self._columns = False

    def images(self, body: bytes) -> Sequence[Image]:
        document = parse_object(body)
        if unknown := sorted(set(document) - set(_FIELDS)):
            raise InvalidRequest(f"Unknown field {unknown[0][:40]!r}. Allowed: {', '.join(_FIELDS)}.")
        if ("instances" in document) == ("inputs" in document):
            raise InvalidRequest('The body needs either "instances" or "inputs".')
        self._columns = "inputs" in document
        values = document["inputs" if self._columns else "instances"]
        if isinstance(values, dict) and not is_encoded(values) and len(values) == 1:
            [values] = values.values()
        if not isinstance(values, list) or not values:
            raise InvalidRequest('"instances" has to be a list of at least one image.')
        return [_image(value, f"instances[{index}]") for index, value in enumerate(values)]

    def render(self, answer: Answer, request_id: str) -> Reply:
        rows: list[list[float]] = []
        for result in answer.results:
            if isinstance(result, FoveaError):
                raise result
            rows.append(result.tolist())
        return Reply(orjson.dumps({"outputs" if self._columns else "predictions": rows}))


def ways() -> list[Way]:
    """The routes that answer images."""
    failures = ErrorText()
    prefix = "/v1/models/{model}"
    places = ("", "/versions/{version}", "/labels/{label}")
    return [Way(f"{prefix}{place}:predict", Predict, failures, growth=GROWTH) for place in places]


def _version(head: Head) -> int | Literal["production"]:
    if (label := head.path.get("label")) is not None and label != "production":
        raise VersionNotFound(f"There is no version label {label[:40]!r}. Allowed: production.")
    if (text := head.path.get("version")) is None:
        return "production"
    if _NUMBER.fullmatch(text) is None:
        raise InvalidRequest(f"The version {text[:40]!r} is not allowed. Allowed: a version's number.")
    return int(text)


def _image(value: Any, where: str) -> Image:
    if isinstance(value, dict) and not is_encoded(value) and len(value) == 1:
        [value] = value.values()
    return decode(value, where) if is_encoded(value) else Tensor(to_array(value, where), typed=False)
