"""The OpenAPI document's part of Vertex AI's contract."""

from __future__ import annotations

from typing import Any

from app.api.protocols.responses import PREDICTING, failures
from app.api.protocols.vertex import DEFAULT_PREDICTIONS, PREDICT


def paths(predict: str | None, health: str | None) -> dict[str, Any]:
    """The path items.

    Args:
        predict: a further route of predictions.
        health: a further route of health probes.
    """
    found: dict[str, Any] = {PREDICT: {"post": _predict("vertexPredict")}}
    if predict is not None:
        found.setdefault(predict, {})["post"] = _predict("vertexPredictRoute")
    if health is not None:
        found.setdefault(health, {})["get"] = _health()
    return found


def _predict(operation: str) -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}}
    prediction = {
        "type": "object",
        "required": ["ids", "displayNames", "confidences"],
        "properties": {
            "ids": {**names, "description": "Indices of the classes, the most probable first."},
            "displayNames": {**names, "description": "Labels of the classes, in the same order."},
            "confidences": {"type": "array", "items": {"type": "number"}, "description": "Their probabilities."},
        },
    }
    body = {
        "type": "object",
        "required": ["instances"],
        "properties": {
            "instances": {"type": "array", "minItems": 1},
            "parameters": {
                "type": ["object", "null"],
                "properties": {
                    "confidenceThreshold": {"type": ["number", "null"], "minimum": 0, "maximum": 1},
                    "maxPredictions": {"type": ["integer", "null"], "minimum": 1, "default": DEFAULT_PREDICTIONS},
                },
                "additionalProperties": False,
            },
        },
        "additionalProperties": False,
    }
    request = {"instances": [{"b64": "iVBORw0KGgo..."}], "parameters": {"maxPredictions": 2}}
    answer = {"predictions": [{"ids": ["1", "0"], "displayNames": ["dog", "cat"], "confidences": [0.93, 0.07]}]}
    return {
        "tags": ["protocols"],
        "operationId": operation,
        "summary": "Classify images, as Vertex AI",
        "description": "The route that Vertex AI calls is that of `AIP_PREDICT_ROUTE`; this does the same.",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": body,
                    "examples": {"row": {"summary": "One encoded image, the two best classes", "value": request}},
                }
            },
        },
        "responses": {
            "200": {
                "description": "A prediction an instance, in their order.",
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["predictions"],
                            "properties": {"predictions": {"type": "array", "items": prediction}},
                        },
                        "example": answer,
                    }
                },
            },
            **failures(*PREDICTING),
        },
    }


def _health() -> dict[str, Any]:
    example: dict[str, Any] = {"status": "ready", "reason": None, "models": {}}
    return {
        "tags": ["health"],
        "operationId": "vertexHealthRoute",
        "summary": "Is it ready, as Vertex AI asks?",
        "description": "As `/health/ready`. Needs no key.",
        "responses": {
            "200": {"description": "Yes.", "content": {"application/json": {"example": example}}},
            "503": {
                "description": "Not now.",
                "content": {"application/json": {"example": {**example, "status": "not ready"}}},
            },
        },
    }
