"""The OpenAPI document's part of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.api.protocols.inference import DTYPES
from app.api.protocols.inference_service import EXTENSIONS, NAME, PLATFORM, VERSION
from app.api.protocols.places import MODEL, NUMBER
from app.api.protocols.responses import PREDICTING, failures

_HEADER = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON that the body begins with; binary tensors follow. 0: the body is one encoded image.",
    "required": False,
    "schema": {"type": "integer", "minimum": 0},
}
_FINDING = ("invalid_request", "invalid_name", "model_not_found", "version_not_found", "storage_failed")
_READING = ("invalid_request", "payload_too_large", "request_timeout", "overloaded", "storage_failed")

_STRING, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
_TENSOR = {"name": _STRING, "datatype": {"type": "string", "enum": [*DTYPES, "BYTES"]}, "shape": {"type": "array"}}
_PARAMETERS = {"type": "object", "description": "Those that are not known have no meaning."}
_DURATION = {"type": "object", "properties": {"count": _NUMBER, "ns": _NUMBER}}

SCHEMAS: dict[str, Any] = {
    "InferenceRequest": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string", "description": "Is in the answer again."},
            "parameters": {
                "type": "object",
                "properties": {
                    "timeout": {"type": "integer", "minimum": 0, "description": "Microseconds for the answer."},
                    "priority": {"type": "integer", "minimum": 0, "description": "Has no meaning here."},
                    "binary_data_output": {"type": "boolean", "description": "Answer with binary tensors."},
                },
            },
            "inputs": {
                "type": "array",
                "minItems": 1,
                "maxItems": 1,
                "items": {
                    "type": "object",
                    "required": ["name", "datatype", "shape"],
                    "properties": {
                        **_TENSOR,
                        "parameters": {
                            "type": "object",
                            "properties": {"binary_data_size": {**_NUMBER, "description": "Its bytes after the JSON."}},
                        },
                        "data": {
                            "type": "array",
                            "description": "Row-major, flat or nested. Of BYTES: encoded images as base64.",
                            "items": {},
                        },
                    },
                },
            },
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name"],
                    "properties": {
                        "name": _STRING,
                        "parameters": {
                            "type": "object",
                            "properties": {
                                "classification": {**_NUMBER, "description": "Name so many classes."},
                                "binary_data": {"type": "boolean", "description": "As a binary tensor."},
                            },
                        },
                    },
                },
            },
        },
    },
    "InferenceAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "outputs"],
        "properties": {
            "model_name": _STRING,
            "model_version": _STRING,
            "id": _STRING,
            "outputs": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["name", "datatype", "shape"],
                    "properties": {**_TENSOR, "parameters": _PARAMETERS, "data": {"type": "array", "items": {}}},
                },
            },
        },
    },
    "InferenceStatistics": {
        "type": "object",
        "required": ["model_stats"],
        "properties": {
            "model_stats": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "name": _STRING,
                        "version": _STRING,
                        "inference_count": {**_NUMBER, "description": "Images."},
                        "execution_count": {**_NUMBER, "description": "Micro-batches."},
                        "inference_stats": {
                            "type": "object",
                            "description": "What is not measured for each version is zero.",
                            "additionalProperties": _DURATION,
                        },
                        "batch_stats": {"type": "array", "items": {}, "description": "Not measured; empty."},
                    },
                },
            }
        },
    },
}

_TENSORS = {
    "inputs": [
        {"name": "image", "datatype": "UINT8", "shape": [-1, 32, 32, 3]},
        {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
    ],
    "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]}],
}
_CONFIG = {
    "name": "cifar10",
    "platform": PLATFORM,
    "max_batch_size": 64,
    "input": [
        {"name": "image", "data_type": "TYPE_UINT8", "dims": [32, 32, 3]},
        {"name": "image_bytes", "data_type": "TYPE_STRING", "dims": [1]},
    ],
    "output": [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [10]}],
}
_ASKED = {
    "id": "42",
    "inputs": [{"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": ["iVBORw0KGgo..."]}],
    "outputs": [{"name": "probabilities", "parameters": {"classification": 1}}],
}
_ANSWERED = {
    "model_name": "cifar10",
    "model_version": "1",
    "id": "42",
    "outputs": [{"name": "probabilities", "datatype": "BYTES", "shape": [1, 1], "data": ["0.93:3:cat"]}],
}
_COUNTED = {
    "name": "cifar10",
    "version": "1",
    "inference_count": 3,
    "execution_count": 2,
    "inference_stats": {"success": {"count": 3, "ns": 0}, "compute_infer": {"count": 2, "ns": 5100000}},
    "batch_stats": [],
}
_ENTRY = {"name": "cifar10", "version": "1", "state": "READY", "reason": ""}


def paths() -> dict[str, Any]:
    """The path items."""
    versioned: tuple[tuple[str, str, tuple[dict[str, Any], ...]], ...] = (
        ("/v2/models/{model}", "", (MODEL,)),
        ("/v2/models/{model}/versions/{version}", "Version", (MODEL, NUMBER)),
    )
    repository = "/v2/repository/models/{model}"
    items: dict[str, Any] = {
        "/v2": _get(
            "inferenceServer",
            "Show the server, by the Open Inference Protocol",
            "Name, version and extensions.",
            {"name": NAME, "version": VERSION, "extensions": [*EXTENSIONS]},
        ),
        "/v2/health/live": _get(
            "inferenceLive",
            "Say whether the process answers, by the Open Inference Protocol",
            "200 as long as it does.",
            {"live": True},
            public=True,
        ),
        "/v2/health/ready": _get(
            "inferenceReady",
            "Say whether the service is ready, by the Open Inference Protocol",
            "200 when every model in production can be answered for.",
            {"live": True, "ready": True},
            failing={"live": True, "ready": False},
            public=True,
        ),
        "/v2/models/stats": _statistics("inferenceStatisticsAll", ()),
        "/v2/repository/index": _post(
            "inferenceIndex",
            "List versions, by the Open Inference Protocol",
            "All versions of all models, and which of them are loaded.",
            {"ready": True},
            [_ENTRY],
            codes=_READING,
        ),
        f"{repository}/load": _post(
            "inferenceLoad",
            "Load a model, by the Open Inference Protocol",
            "Has the version in production answer, trying again what was refused; or loads the one in `version`.",
            {"parameters": {"version": "2"}},
            None,
            MODEL,
            codes=(*_READING, *_FINDING, "version_refused", "not_ready"),
        ),
        f"{repository}/unload": _post(
            "inferenceUnload",
            "Unload a version, by the Open Inference Protocol",
            "Lets go of a version that is loaded besides the one that answers, which stays.",
            {"parameters": {"version": "2"}},
            None,
            MODEL,
            codes=(*_READING, *_FINDING, "conflict"),
        ),
    }
    for path, suffix, places in versioned:
        items[path] = _get(
            f"inferenceModel{suffix}",
            "Show what a model takes and gives, by the Open Inference Protocol",
            "Both inputs, of which a request has one, and the output.",
            {"name": "cifar10", "versions": ["1", "2"], **_TENSORS, "platform": PLATFORM},
            *places,
            codes=(*_FINDING, "version_refused"),
        )
        items[f"{path}/ready"] = _get(
            f"inferenceModelReady{suffix}",
            "Say whether a model answers, by the Open Inference Protocol",
            "200 when the model answers; of a version, when it is loaded.",
            {"name": "cifar10", "ready": True},
            *places,
            failing={"name": "cifar10", "ready": False, "error": "Model cifar10 is still loading."},
            codes=_FINDING,
            public=True,
        )
        items[f"{path}/config"] = _get(
            f"inferenceModelConfig{suffix}",
            "Show how a model is configured, in Triton's words",
            "Tensors without the axis of the batch, and as `max_batch_size` how many images a request may have.",
            _CONFIG,
            *places,
            codes=(*_FINDING, "version_refused"),
        )
        items[f"{path}/stats"] = _statistics(f"inferenceStatistics{suffix}", places, codes=_FINDING)
        items[f"{path}/infer"] = _infer(f"infer{suffix}", places)
    return items


def _infer(operation: str, places: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    octets = {"schema": {"type": "string", "format": "binary"}, "example": "JSON, then tensors; or an encoded image"}
    return {
        "post": {
            "tags": ["protocols"],
            "operationId": operation,
            "summary": "Classify images, by the Open Inference Protocol",
            "description": "Encoded images (`image_bytes`) or a tensor (`image`), in JSON or binary behind it.",
            "parameters": [*places, _HEADER],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {
                        "schema": {"$ref": "#/components/schemas/InferenceRequest"},
                        "examples": {"encoded": {"summary": "One encoded image", "value": _ASKED}},
                    },
                    "application/octet-stream": octets,
                },
            },
            "responses": {
                "200": {
                    "description": "The probabilities, or the most probable classes.",
                    "content": {
                        "application/json": {
                            "schema": {"$ref": "#/components/schemas/InferenceAnswer"},
                            "examples": {"classes": {"summary": "The most probable class", "value": _ANSWERED}},
                        },
                        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
                    },
                },
                **failures(*PREDICTING),
            },
        }
    }


def _statistics(operation: str, places: tuple[dict[str, Any], ...], codes: tuple[str, ...] = ()) -> dict[str, Any]:
    return _get(
        operation,
        "Show what versions have done, by the Open Inference Protocol",
        "Since the service began, in all of its processes.",
        {"model_stats": [_COUNTED]},
        *places,
        schema={"$ref": "#/components/schemas/InferenceStatistics"},
        codes=codes,
    )


def _get(
    operation: str,
    summary: str,
    description: str,
    example: dict[str, Any],
    *places: dict[str, Any],
    failing: dict[str, Any] | None = None,
    codes: tuple[str, ...] = (),
    public: bool = False,
    schema: dict[str, Any] | None = None,
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        "200": _json("As asked for.", example, schema or {"type": "object"}),
        **failures(*codes),
    }
    if public:
        responses = {status: response for status, response in responses.items() if status not in ("401", "403")}
    if failing is not None:
        responses["503"] = _json("Not ready.", failing, {"type": "object"})
    return {
        "get": {
            "tags": ["protocols"],
            "operationId": operation,
            "summary": summary,
            "description": description,
            "parameters": [*places],
            "responses": responses,
        }
    }


def _post(
    operation: str,
    summary: str,
    description: str,
    body: dict[str, Any],
    example: Any,
    *places: dict[str, Any],
    codes: tuple[str, ...],
) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}, "examples": {"body": {"value": body}}}}
    done = {"description": "Done."} if example is None else _json("As asked for.", example, {})
    return {
        "post": {
            "tags": ["protocols"],
            "operationId": operation,
            "summary": summary,
            "description": description,
            "parameters": [*places],
            "requestBody": {"required": False, "content": content},
            "responses": {"200": done, **failures(*codes)},
        }
    }


def _json(description: str, example: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    examples = {"answer": {"value": example}}
    return {"description": description, "content": {"application/json": {"schema": schema, "examples": examples}}}
