"""The OpenAPI document's part of TensorFlow Serving's REST API."""

from __future__ import annotations

from typing import Any

from app.api.protocols.places import MODEL, NUMBER
from app.api.protocols.responses import PREDICTING, failures

_LABEL = {
    "name": "label",
    "in": "path",
    "description": "`production` or `stable`: the version that answers when none is named.",
    "required": True,
    "schema": {"type": "string", "enum": ["production", "stable"]},
    "example": "production",
}
_PLACES = {"": (), "/versions/{version}": (NUMBER,), "/labels/{label}": (_LABEL,)}
_NAMES = {"": "", "/versions/{version}": "Version", "/labels/{label}": "Label"}
_PREFIX = "/v1/models/{model}"

_SIGNATURE = {
    "type": "string",
    "enum": ["serving_default", ""],
    "description": "There is but one; may be left out.",
}
_ENCODED = {"b64": "iVBORw0KGgo..."}

VERSIONS: dict[str, Any] = {
    "type": "array",
    "description": "The newest first.",
    "items": {
        "type": "object",
        "required": ["version", "state", "status"],
        "properties": {
            "version": {"type": "string"},
            "state": {
                "type": "string",
                "enum": ["START", "LOADING", "AVAILABLE", "UNLOADING", "END"],
                "description": "`START`: it is loaded when it is first asked. `END`: it does not answer; `status` says "
                "why.",
            },
            "status": {
                "type": "object",
                "required": ["error_code", "error_message"],
                "properties": {"error_code": {"type": "string"}, "error_message": {"type": "string"}},
            },
        },
    },
}
AVAILABLE: dict[str, Any] = {
    "version": "1",
    "state": "AVAILABLE",
    "status": {"error_code": "OK", "error_message": ""},
}

SCHEMAS: dict[str, Any] = {
    "ModelStatus": {
        "type": "object",
        "required": ["name", "ready", "model_version_status"],
        "properties": {
            "name": {"type": "string", "description": "KServe's."},
            "ready": {"type": "boolean", "description": "KServe's: whether the model can be answered for."},
            "model_version_status": VERSIONS,
            "error": {"type": "string", "description": "Why it is not ready."},
        },
    }
}

_LOOKING = ("invalid_name", "model_not_found", "storage_failed")


def paths() -> dict[str, Any]:
    """The path items."""
    items: dict[str, Any] = {_PREFIX: {"get": _model()}}
    for place, parameters in _PLACES.items():
        named, both = _NAMES[place], [MODEL, *parameters]
        items[f"{_PREFIX}{place}:predict"] = {"post": _predict(f"tfservingPredict{named}", both)}
        items[f"{_PREFIX}{place}:classify"] = {"post": _classify(f"tfservingClassify{named}", both)}
        items[f"{_PREFIX}{place}/metadata"] = {"get": _metadata(f"tfservingMetadata{named}", both)}
        if place:
            items[f"{_PREFIX}{place}"] = {"get": _version(f"tfservingStatus{named}", both)}
    return items


def _predict(operation: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    properties = {"signature_name": _SIGNATURE, "instances": {"type": "array", "minItems": 1}, "inputs": {}}
    probabilities = {"type": "array", "items": {"type": "array", "items": {"type": "number"}}}
    return {
        "tags": ["protocols"],
        "operationId": operation,
        "summary": "Classify images, as TensorFlow Serving and KServe V1",
        "description": 'Rows (`instances`) or columns (`inputs`) of encoded images, `{"b64": ...}`, or of tensors that '
        "are preprocessed; by the names of the inputs (`image_bytes`, or the tensor's) or by none.",
        "parameters": parameters,
        "requestBody": _body(
            properties,
            row=("One encoded image", {"instances": [_ENCODED]}),
            named=("By the input's name", {"instances": [{"image_bytes": _ENCODED}]}),
            column=("Columns", {"signature_name": "serving_default", "inputs": {"image_bytes": [_ENCODED]}}),
        ),
        "responses": {
            "200": _answer(
                "Probabilities in the order of the classes, a row an image.",
                {"type": "object", "properties": {"predictions": probabilities, "outputs": probabilities}},
                {"predictions": [[0.07, 0.93]]},
            ),
            **failures(*PREDICTING),
        },
    }


def _classify(operation: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    properties = {
        "signature_name": _SIGNATURE,
        "context": {"type": "object", "description": "An image that all examples have in common."},
        "examples": {"type": "array", "minItems": 1, "items": {"type": "object"}},
    }
    # A pair of a string and a number, which older documents have no words for.
    pair = {"type": "array", "minItems": 2, "maxItems": 2, "items": {}}
    results = {"type": "array", "items": {"type": "array", "items": pair}}
    return {
        "tags": ["protocols"],
        "operationId": operation,
        "summary": "Label images, as TensorFlow Serving",
        "description": "Examples with an image as their feature: `image_bytes`, or the tensor's name.",
        "parameters": parameters,
        "requestBody": _body(properties, one=("One encoded image", {"examples": [{"image_bytes": _ENCODED}]})),
        "responses": {
            "200": _answer(
                "Labels and probabilities of each image, the most probable first.",
                {"type": "object", "required": ["results"], "properties": {"results": results}},
                {"results": [[["dog", 0.93], ["cat", 0.07]]]},
            ),
            **failures(*PREDICTING),
        },
    }


def _model() -> dict[str, Any]:
    document = {"name": "cifar10", "ready": True, "model_version_status": [AVAILABLE]}
    loading = {**AVAILABLE, "state": "LOADING"}
    reason = {"error": "Model cifar10 is still loading."}
    responses = failures(*_LOOKING)
    waiting = {**document, "ready": False, "model_version_status": [loading], **reason}
    schema = {"$ref": "#/components/schemas/ModelStatus"}
    return {
        "tags": ["protocols"],
        "operationId": "tfservingStatus",
        "summary": "Show how a model stands, as TensorFlow Serving and KServe V1",
        "description": "The fields of both: `model_version_status` is TensorFlow Serving's, `name` and `ready` are "
        "KServe's.",
        "parameters": [MODEL],
        "responses": {
            "200": _answer("It can be answered for.", schema, document),
            **responses,
            "503": _answer("It cannot be answered for; `error` says why.", schema, waiting),
        },
    }


def _version(operation: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    schema = {"type": "object", "required": ["model_version_status"], "properties": {"model_version_status": VERSIONS}}
    return {
        "tags": ["protocols"],
        "operationId": operation,
        "summary": "Show how a version stands, as TensorFlow Serving",
        "description": "One entry, of that version.",
        "parameters": parameters,
        "responses": {
            "200": _answer("How it stands.", schema, {"model_version_status": [AVAILABLE]}),
            **failures(*_LOOKING, "invalid_request", "version_not_found"),
        },
    }


def _metadata(operation: str, parameters: list[dict[str, Any]]) -> dict[str, Any]:
    image = _tensor("image", "DT_UINT8", -1, 32, 32, 3)
    signature = {
        "inputs": {"image_bytes": _tensor("image_bytes", "DT_STRING", -1), "image": image},
        "outputs": {"probabilities": _tensor("probabilities", "DT_FLOAT", -1, 10)},
        "method_name": "tensorflow/serving/predict",
    }
    example = {
        "model_spec": {"name": "cifar10", "signature_name": "", "version": "1"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
    }
    schema = {
        "type": "object",
        "required": ["model_spec", "metadata"],
        "properties": {"model_spec": {"type": "object"}, "metadata": {"type": "object"}},
    }
    return {
        "tags": ["protocols"],
        "operationId": operation,
        "summary": "Show what a model takes and answers, as TensorFlow Serving",
        "description": "Its one signature, with two inputs of which a request has one: the tensor, and `image_bytes`, "
        "encoded images.",
        "parameters": parameters,
        "responses": {
            "200": _answer("The signature.", schema, example),
            **failures(*_LOOKING, "invalid_request", "version_not_found", "version_refused"),
        },
    }


def _tensor(name: str, kind: str, *shape: int) -> dict[str, Any]:
    dimensions = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": kind, "tensor_shape": {"dim": dimensions, "unknown_rank": False}, "name": f"{name}:0"}


def _body(properties: dict[str, Any], **examples: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "object", "properties": properties, "additionalProperties": False},
                "examples": {name: {"summary": text, "value": value} for name, (text, value) in examples.items()},
            }
        },
    }


def _answer(description: str, schema: dict[str, Any], example: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema, "example": example}}}
