"""The OpenAPI document's part of TensorFlow Serving's REST API."""

from __future__ import annotations

from typing import Any

from app.api.protocols.responses import PREDICTING, failures
from app.names import PATTERN

_MODEL = {
    "name": "model",
    "in": "path",
    "description": "The model's name.",
    "required": True,
    "schema": {"type": "string", "pattern": PATTERN},
    "example": "cifar10",
}
_VERSION = {
    "name": "version",
    "in": "path",
    "description": "A version's number.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
    "example": "1",
}
_LABEL = {
    "name": "label",
    "in": "path",
    "description": "`production`: the version that answers when none is named.",
    "required": True,
    "schema": {"type": "string", "enum": ["production"]},
    "example": "production",
}


def paths() -> dict[str, Any]:
    """The path items."""
    prefix = "/v1/models/{model}"
    return {
        f"{prefix}:predict": _predict("tfservingPredict", _MODEL),
        f"{prefix}/versions/{{version}}:predict": _predict("tfservingPredictVersion", _MODEL, _VERSION),
        f"{prefix}/labels/{{label}}:predict": _predict("tfservingPredictLabel", _MODEL, _LABEL),
    }


def _predict(operation: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    row = {"instances": [{"b64": "iVBORw0KGgo..."}]}
    return {
        "post": {
            "tags": ["protocols"],
            "operationId": operation,
            "summary": "Classify images, as TensorFlow Serving",
            "description": 'Rows (`instances`) or columns (`inputs`) of encoded images, `{"b64": ...}`, or of tensors.',
            "parameters": list(parameters),
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "properties": {
                                "signature_name": {"type": "string"},
                                "instances": {"type": "array", "minItems": 1},
                                "inputs": {},
                            },
                            "additionalProperties": False,
                        },
                        "examples": {"row": {"summary": "One encoded image", "value": row}},
                    }
                },
            },
            "responses": {
                "200": {
                    "description": "Probabilities in the order of the classes, a row an image.",
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "properties": {"predictions": {"type": "array"}, "outputs": {"type": "array"}},
                            },
                            "example": {"predictions": [[0.07, 0.93]]},
                        }
                    },
                },
                **failures(*PREDICTING),
            },
        }
    }
