"""TensorFlow Serving's REST API: `/v1/models/...:predict` and `:classify`. The former is KServe's too, in its V1."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal

import orjson

from app.api.protocols.encoded import check_count, check_head, is_encoded, json_weight, parse_object
from app.api.protocols.failures import ErrorText
from app.api.protocols.inference_service import parse_version
from app.api.protocols.inputs import Inputs
from app.api.protocols.rows import rows_of
from app.api.ways import Head, Inquiry, Reply, Way
from app.errors import InvalidRequest, VersionNotFound
from app.names import check_name
from app.serving.classifier import Answer
from app.serving.tensors import Image

PREFIX = "/v1/models/{model}"
PLACES = ("", "/versions/{version}", "/labels/{label}")
LABELS = ("production", "stable")
"""Both mean the version that answers when none is named."""
SIGNATURE = "serving_default"

_AS_EXAMPLE = 'Send images in base64: {"examples": [{"image_bytes": {"b64": "..."}}]}.'


class _Asked:
    """What requests of both kinds have in common."""

    def __init__(self, head: Head) -> None:
        self.model = check_name(head.path["model"], "model")
        self.version = version_of(head.path)
        check_head(head.headers)
        self._inputs = Inputs(head.most)
        self._most = head.most

    def _rows(self, answer: Answer) -> list[list[float]]:
        """Probabilities of each image; raises the first error."""
        self._inputs.names.check(answer.model, answer.input)
        return [row.tolist() for row in rows_of(answer)]


class Predict(_Asked):
    """A request to `:predict`; as `app.api.ways.Inquiry`."""

    _columns = False

    def images(self, body: bytes) -> Sequence[Image]:
        document = parse_object(body)
        if document.get("parameters", "none") in (None, {}):
            # Vertex AI, where this is the route that it was told, may add them although its caller sent none.
            del document["parameters"]
        _check_document(document, ("signature_name", "instances", "inputs"))
        if ("instances" in document) == ("inputs" in document):
            raise InvalidRequest('The body needs either "instances", which are rows, or "inputs", which are columns.')
        self._columns = "inputs" in document
        if self._columns:
            return self._inputs.columns(document["inputs"], "inputs")
        return self._inputs.rows(document["instances"], "instances")

    def render(self, answer: Answer, request_id: str) -> Reply:
        return Reply(orjson.dumps({"outputs" if self._columns else "predictions": self._rows(answer)}))


class Classify(_Asked):
    """A request to `:classify`; as `app.api.ways.Inquiry`."""

    def images(self, body: bytes) -> Sequence[Image]:
        document = parse_object(body, _AS_EXAMPLE)
        _check_document(document, ("signature_name", "context", "examples"))
        examples, context = document.get("examples"), document.get("context", {})
        if not isinstance(examples, list) or not all(isinstance(example, dict) for example in examples):
            raise InvalidRequest('"examples" has to be a list of objects, each with an image as its feature.')
        if not isinstance(context, dict):
            raise InvalidRequest('"context" has to be an object of features.')
        if not context:
            return self._inputs.rows([_plain(example) for example in examples], "examples")
        # Whatever the number of examples, it is decoded once.
        check_count(len(examples), self._most)
        if any(examples):
            raise InvalidRequest('An image is one feature: with one in "context" the examples have to be empty.')
        return self._inputs.rows([_plain(context)], "context") * len(examples)

    def render(self, answer: Answer, request_id: str) -> Reply:
        results = []
        for row in self._rows(answer):
            # Stable, so that equal scores stand in the order of the classes.
            order = sorted(range(len(row)), key=row.__getitem__, reverse=True)
            results.append([(answer.labels[index], row[index]) for index in order])
        return Reply(orjson.dumps({"results": results}))


def ways() -> list[Way]:
    """The routes that answer images."""
    failures = ErrorText()
    verbs: dict[str, Callable[[Head], Inquiry]] = {"predict": Predict, "classify": Classify}
    return [
        Way(f"{PREFIX}{place}:{verb}", begin, failures, weight=json_weight)
        for verb, begin in verbs.items()
        for place in PLACES
    ]


def version_of(path: Mapping[str, str]) -> int | Literal["production"]:
    """The version that a path names.

    Raises:
        InvalidRequest: it is no number.
        VersionNotFound: there is no such label.
    """
    if (label := path.get("label")) is not None and label not in LABELS:
        raise VersionNotFound(f"There is no version label {label[:40]!r}. Allowed: {', '.join(LABELS)}.")
    return parse_version(path.get("version"))


def _check_document(document: dict[str, Any], fields: Collection[str]) -> None:
    """Refuse other fields than these, and another signature than there is."""
    if unknown := sorted(set(document) - set(fields)):
        raise InvalidRequest(f"Unknown field {unknown[0][:40]!r}. Allowed: {', '.join(fields)}.")
    # Empty is what the field of a protocol buffer is that was not set.
    if document.get("signature_name", SIGNATURE) not in (SIGNATURE, ""):
        raise InvalidRequest(f'The only signature is "{SIGNATURE}": set "signature_name" to that, or leave it out.')


def _plain(features: dict[str, Any]) -> dict[str, Any]:
    """Features of an example are lists: one of a lone encoded image stands for that image."""
    return {
        name: value[0] if isinstance(value, list) and len(value) == 1 and is_encoded(value[0]) else value
        for name, value in features.items()
    }
