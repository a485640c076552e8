"""Vertex AI's contract for containers: a route for predictions and one for health, wherever its variables say.

Source: "Custom container requirements for prediction" of Vertex AI's documentation. A prediction has the form of
Vertex AI's own image classification (AutoML), and so have the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import orjson

from app.api import health
from app.api.protocols.encoded import check_head, json_weight, parse_object
from app.api.protocols.failures import ErrorText
from app.api.protocols.fields import check_fields
from app.api.protocols.inputs import Inputs
from app.api.protocols.routing import ProtocolRoute
from app.api.protocols.rows import rows_of
from app.api.ways import Head, Reply, Way
from app.errors import InvalidRequest
from app.preprocessing import Float32Array
from app.serving.classifier import Answer
from app.serving.tensors import Image

PREDICT = "/vertex/predict"
DEFAULT_PREDICTIONS = 10

_PARAMETERS = ("confidenceThreshold", "maxPredictions")


class Predict:
    """A request for predictions; as `app.api.ways.Inquiry`."""

    model: str | None = None
    version: int | Literal["production"] = "production"

    def __init__(self, head: Head) -> None:
        check_head(head.headers)
        self._inputs = Inputs(head.most)
        self._threshold = 0.0
        self._most = DEFAULT_PREDICTIONS

    def images(self, body: bytes) -> Sequence[Image]:
        document = parse_object(body)
        check_fields(document, ("instances", "parameters"))
        self._read_parameters(document.get("parameters"))
        return self._inputs.rows(document.get("instances"), "instances")

    def render(self, answer: Answer, request_id: str) -> Reply:
        self._inputs.names.check(answer.model, answer.input)
        predictions = [self._prediction(row, answer.labels) for row in rows_of(answer)]
        return Reply(orjson.dumps({"predictions": predictions}))

    def _prediction(self, probabilities: Float32Array, labels: Sequence[str]) -> dict[str, Any]:
        values: list[float] = probabilities.tolist()
        order = sorted(range(len(values)), key=values.__getitem__, reverse=True)[: self._most]
        order = [index for index in order if values[index] >= self._threshold]
        return {
            "ids": [str(index) for index in order],
            "displayNames": [labels[index] for index in order],
            "confidences": [values[index] for index in order],
        }

    def _read_parameters(self, parameters: Any) -> None:
        if parameters is None:
            return
        if not isinstance(parameters, dict):
            raise InvalidRequest(f'"parameters" has to be an object. Allowed in it: {", ".join(_PARAMETERS)}.')
        check_fields(parameters, _PARAMETERS, '"parameters"')
        threshold, most = (parameters.get(name) for name in _PARAMETERS)
        if threshold is not None:
            if not _is_number(threshold) or not 0 <= threshold <= 1:
                raise InvalidRequest('"parameters.confidenceThreshold" has to be a number from 0 to 1.')
            self._threshold = threshold
        if most is not None:
            # Vertex AI's protocol buffers have one type of numbers, so that whole ones may come as 5.0.
            if not _is_number(most) or most < 1 or most != int(most):
                raise InvalidRequest('"parameters.maxPredictions" has to be a whole number from 1 up.')
            self._most = int(most)


def ways(route: str | None) -> list[Way]:
    """The routes that answer images: one that is always there, and the one that `route` says.

    Args:
        route: from `AIP_PREDICT_ROUTE`.
    """
    paths = dict.fromkeys([PREDICT, *([route] if route is not None else [])])
    return [Way(path, Predict, ErrorText(), weight=json_weight) for path in paths]


def routes(route: str | None) -> list[ProtocolRoute]:
    """The route of health probes that `route` says, from `AIP_HEALTH_ROUTE`."""
    return [] if route is None else [ProtocolRoute(route, health.ready, ErrorText())]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
