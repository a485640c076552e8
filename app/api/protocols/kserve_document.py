"""The OpenAPI document's part of KServe's V1 protocol, as far as it is not TensorFlow Serving's too."""

from __future__ import annotations

from typing import Any

from app.api.protocols.places import MODEL
from app.api.protocols.responses import PREDICTING, failures

_EXPLAINING = (*PREDICTING, "not_explainable", "explain_unavailable", "storage_failed")


def paths() -> dict[str, Any]:
    """The path items."""
    return {"/v1/models": {"get": _models()}, "/v1/models/{model}:explain": {"post": _explain()}}


def _models() -> dict[str, Any]:
    names = {"type": "array", "items": {"type": "string"}}
    return {
        "tags": ["protocols"],
        "operationId": "kserveModels",
        "summary": "List the models, as KServe V1",
        "description": "Names alone, also of models that have no version in production.",
        "responses": {
            "200": {
                "description": "All names.",
                "content": {
                    "application/json": {
                        "schema": {"type": "object", "required": ["models"], "properties": {"models": names}},
                        "example": {"models": ["cifar10"]},
                    }
                },
            },
            **failures(),
        },
    }


def _explain() -> dict[str, Any]:
    explanation = {
        "type": "object",
        "required": ["label", "probability", "layer", "picture"],
        "properties": {
            "label": {"type": "string", "description": "The class that is answered."},
            "probability": {"type": "number"},
            "layer": {"type": "string", "description": "The layer that Grad-CAM looked at."},
            "picture": {
                "type": "object",
                "required": ["b64"],
                "properties": {"b64": {"type": "string", "description": "A PNG: the image with its heat over it."}},
            },
        },
    }
    example = {"label": "cat", "probability": 0.93, "layer": "add_3", "picture": {"b64": "iVBORw0KGgo..."}}
    return {
        "tags": ["protocols"],
        "operationId": "kserveExplain",
        "summary": "Explain answers, as KServe V1",
        "description": "Grad-CAM for the class that is answered, image by image, of eight at most.",
        "parameters": [MODEL],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {
                    "schema": {
                        "type": "object",
                        "required": ["instances"],
                        "properties": {"instances": {"type": "array", "minItems": 1, "maxItems": 8}},
                        "additionalProperties": False,
                    },
                    "examples": {
                        "one": {"summary": "One encoded image", "value": {"instances": [{"b64": "iVBORw0KGgo..."}]}}
                    },
                }
            },
        },
        "responses": {
            "200": {
                "description": "What each answer rests on, in the order sent.",
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["explanations"],
                            "properties": {"explanations": {"type": "array", "items": explanation}},
                        },
                        "example": {"explanations": [example]},
                    }
                },
            },
            **failures(*_EXPLAINING),
        },
    }
