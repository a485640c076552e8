"""The OpenAPI document's part of Amazon SageMaker's contracts."""

from __future__ import annotations

from typing import Any

from app.api.protocols.responses import PREDICTING, failures

_TYPES = ("application/x-image", "image/*", "application/octet-stream", "application/x-npy")
_ENTRY = {
    "type": "object",
    "required": ["modelName"],
    "properties": {"modelName": {"type": "string"}, "modelUrl": {"type": "string"}},
}
_EXAMPLE = {"modelName": "0f3c51d2", "modelUrl": "/opt/ml/models/0f3c51d2/model"}
_NAME = {
    "name": "model",
    "in": "path",
    "description": "SageMaker's name of the model, or the name of one in the store.",
    "required": True,
    "schema": {"type": "string"},
    "example": "cifar10",
}
_TARGET = {
    "name": "X-Amzn-SageMaker-Target-Model",
    "in": "header",
    "description": "The model that is asked, with or without `.tar.gz`. Without it, the default model.",
    "schema": {"type": "string"},
    "example": "cifar10.tar.gz",
}
_ACCEPT_NOTE = "`Accept` chooses among JSON (the default), `application/x-npy` and `text/csv`."


def paths() -> dict[str, Any]:
    """The path items."""
    return {
        "/ping": {
            "get": {
                "tags": ["protocols"],
                "operationId": "sagemakerPing",
                "summary": "Is it ready, as SageMaker asks?",
                "description": "The body is empty. Needs no key.",
                "responses": {"200": {"description": "Yes."}, "503": {"description": "Not yet, or not any more."}},
            }
        },
        "/invocations": {
            "post": _invoke(
                "sagemakerInvocations",
                "Classify images, as SageMaker",
                "The body is one image, or JSON with `instances`, or a tensor in NumPy's format.",
                _TARGET,
            )
        },
        "/models": {
            "get": {
                "tags": ["protocols"],
                "operationId": "sagemakerModels",
                "summary": "List models, as SageMaker",
                "description": "All models of the store, without pages.",
                "parameters": [
                    {
                        "name": "next_page_token",
                        "in": "query",
                        "description": "Taken, and not needed: there is one page.",
                        "schema": {"type": "string"},
                    }
                ],
                "responses": _answers(
                    "The models.",
                    {"type": "object", "properties": {"models": {"type": "array", "items": _ENTRY}}},
                    {"models": [_EXAMPLE]},
                    "invalid_request",
                    "storage_failed",
                ),
            },
            "post": {
                "tags": ["protocols"],
                "operationId": "sagemakerLoad",
                "summary": "Load a model, as SageMaker",
                "description": "On multi-model endpoints (`FOVEA_MULTI_MODEL`) only; elsewhere 409.",
                "requestBody": {
                    "required": True,
                    "content": {
                        "application/json": {
                            "schema": {
                                "type": "object",
                                "required": ["model_name", "url"],
                                "properties": {
                                    "model_name": {"type": "string", "minLength": 1, "maxLength": 1024},
                                    "url": {"type": "string", "description": "Folder in which the model lies."},
                                },
                                "additionalProperties": False,
                            },
                            "examples": {
                                "load": {
                                    "summary": "As SageMaker sends it",
                                    "value": {"model_name": _EXAMPLE["modelName"], "url": _EXAMPLE["modelUrl"]},
                                }
                            },
                        }
                    },
                },
                "responses": _answers(
                    "It is loaded.",
                    _ENTRY,
                    _EXAMPLE,
                    "invalid_request",
                    "request_timeout",
                    "conflict",
                    "payload_too_large",
                    "version_refused",
                    "not_ready",
                    "storage_failed",
                ),
            },
        },
        "/models/{model}": {
            "get": {
                "tags": ["protocols"],
                "operationId": "sagemakerModel",
                "summary": "Describe a model, as SageMaker",
                "description": "Its name, and the folder that it was loaded from, if it was loaded by HTTP.",
                "parameters": [_NAME],
                "responses": _answers("The model.", _ENTRY, _EXAMPLE, "model_not_found", "storage_failed"),
            },
            "delete": {
                "tags": ["protocols"],
                "operationId": "sagemakerUnload",
                "summary": "Unload a model, as SageMaker",
                "description": "On multi-model endpoints (`FOVEA_MULTI_MODEL`) only; elsewhere 409.",
                "parameters": [_NAME],
                "responses": _answers(
                    "It is unloaded.",
                    {"type": "object", "additionalProperties": False},
                    {},
                    "model_not_found",
                    "conflict",
                    "storage_failed",
                ),
            },
        },
        "/models/{model}/invoke": {
            "post": _invoke(
                "sagemakerInvoke",
                "Classify images with a model, as SageMaker",
                "As `/invocations`, of a model that was loaded, or that the store has.",
                _NAME,
            )
        },
    }


def _invoke(operation: str, summary: str, description: str, *parameters: dict[str, Any]) -> dict[str, Any]:
    instances = {
        "type": "object",
        "required": ["instances"],
        "properties": {"instances": {"type": "array", "minItems": 1}},
        "additionalProperties": False,
    }
    row = {"instances": [{"b64": "iVBORw0KGgo..."}]}
    answer = {
        "type": "object",
        "required": ["predictions", "labels", "model", "version"],
        "properties": {
            "predictions": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            "labels": {"type": "array", "items": {"type": "string"}},
            "model": {"type": "string"},
            "version": {"type": "integer"},
        },
    }
    example = {"predictions": [[0.07, 0.93]], "labels": ["cat", "dog"], "model": "pets", "version": 1}
    binary = {"schema": {"type": "string", "format": "binary"}}
    return {
        "tags": ["protocols"],
        "operationId": operation,
        "summary": summary,
        "description": f"{description} {_ACCEPT_NOTE}",
        "parameters": list(parameters),
        "requestBody": {
            "required": True,
            "content": {
                **{kind: {**binary, "example": "(the bytes)"} for kind in _TYPES},
                "application/json": {"schema": instances, "examples": {"row": {"summary": "One image", "value": row}}},
            },
        },
        "responses": {
            "200": {
                "description": "Probabilities in the order of the labels, a row an image.",
                "content": {
                    "application/json": {"schema": answer, "example": example},
                    "application/x-npy": binary,
                    "text/csv": {"schema": {"type": "string"}, "example": "0.07,0.93\n"},
                },
            },
            **failures(*PREDICTING, "unsupported_media_type", "not_acceptable"),
        },
    }


def _answers(description: str, schema: dict[str, Any], example: Any, *codes: str) -> dict[str, Any]:
    # An example that is empty is none to who looks for one.
    content = {"application/json": {"schema": schema, "example": example}} if example else {}
    return {"200": {"description": description, "content": content}, **failures(*codes)}
