"""The OpenAPI operation of `POST /api/v1/predict`, which is no FastAPI route."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.api.examples import binary, files
from app.names import PATTERN

PATH = "/api/v1/predict"
_ADDRESS = f"http://127.0.0.1:8000{PATH}"

IMAGE = {"type": "string", "contentMediaType": "application/octet-stream", "description": "One encoded image."}
"""Schema of an image in a body."""

IMAGE_PROBLEMS = (
    "request_timeout",
    "payload_too_large",
    "image_too_large",
    "unsupported_media_type",
    "unsupported_image_format",
    "invalid_image",
)
"""Codes of what may be wrong with a body that has images."""

_TOP = {
    "type": "array",
    "description": "The most probable classes, best first.",
    "items": {
        "type": "object",
        "required": ["label", "class_index", "probability"],
        "properties": {
            "label": {"type": "string"},
            "class_index": {"type": "integer", "description": "Position of the class in the model's output, from 0."},
            "probability": {"type": "number", "description": "Softmax probability; over all classes they sum to 1."},
        },
    },
}

SCHEMAS: dict[str, Any] = {
    "Prediction": {
        "title": "Prediction",
        "description": "What one image shows: a label, or why it could not be classified.",
        "type": "object",
        "required": ["name"],
        "properties": {
            "name": {"type": "string", "description": "File name of the part; `image` where there is none."},
            "label": {"type": "string", "description": "The most probable class."},
            "probability": {"type": "number", "description": "Its probability."},
            "unknown": {
                "type": "boolean",
                "description": "Whether that is below the threshold that the version's training chose (`unknown` in "
                "its manifest): the image had better be taken for none of the classes. Only where there is one.",
            },
            "top": _TOP,
            "error": {
                "type": "object",
                "description": "In place of a label, in a request of several images, for one that is not readable.",
                "required": ["code", "detail"],
                "properties": {"code": {"type": "string"}, "detail": {"type": "string"}},
            },
        },
    },
    "Predictions": {
        "title": "Predictions",
        "type": "object",
        "required": ["model", "version", "id", "predictions"],
        "properties": {
            "model": {"type": "string", "description": "Model that answered."},
            "version": {"type": "integer", "description": "Version of it that answered, for all images alike."},
            "id": {"type": "string", "description": "The request's id, as in the `X-Request-Id` header."},
            "predictions": {
                "type": "array",
                "description": "One for each image, in the order sent.",
                "items": {"$ref": "#/components/schemas/Prediction"},
            },
        },
    },
}

_CAT = {
    "name": "cat.jpg",
    "label": "cat",
    "probability": 0.9312,
    "top": [
        {"label": "cat", "class_index": 3, "probability": 0.9312},
        {"label": "dog", "class_index": 5, "probability": 0.0601},
    ],
}
_BROKEN = {
    "name": "broken.jpg",
    "error": {"code": "invalid_image", "detail": "The image is damaged or cut short."},
}


def paths(problems: Callable[..., dict[int | str, dict[str, Any]]]) -> dict[str, Any]:
    """The path item. `problems` gives the responses for codes of problems."""
    failures = problems(
        "invalid_request",
        "invalid_name",
        "model_not_found",
        "version_not_found",
        *IMAGE_PROBLEMS,
        "version_refused",
        "overloaded",
        "deadline_exceeded",
        "inference_failed",
        "not_ready",
    )
    return {
        PATH: {
            "post": {
                "tags": ["predict"],
                "operationId": "predict",
                "summary": "Classify images",
                "description": (
                    "Send one image as the body, or any number as the files of a `multipart/form-data` body, under any "
                    "field names. Answers come in the order sent. JPEG, PNG, WebP, GIF (first frame), BMP and TIFF.\n\n"
                    "In a request of several images, one that is not readable gets an `error` in its place, and the "
                    "others their answers; a single bad image is a problem document."
                ),
                "parameters": [
                    _parameter(
                        "model",
                        {"type": "string", "pattern": PATTERN},
                        "Model that shall answer. Unset: the default model, or the only one there is.",
                        "cifar10",
                    ),
                    _parameter(
                        "version",
                        {"type": "string", "pattern": "^(production|[1-9][0-9]{0,8})$", "default": "production"},
                        "A version's number, or `production`.",
                        "production",
                    ),
                    _parameter(
                        "top_k",
                        {"type": "integer", "minimum": 0, "default": 5},
                        "How many classes to list, the most probable first; 0 lists all.",
                        3,
                    ),
                    {
                        "name": "Fovea-Timeout-Ms",
                        "in": "header",
                        "required": False,
                        "schema": {"type": "integer", "minimum": 1},
                        "description": "Milliseconds after which nobody waits for the answer; then it is given up. "
                        "Unset: the service's own limit, which holds in any case.",
                        "example": 2000,
                    },
                ],
                "requestBody": {
                    "required": True,
                    "description": "The image, or images.",
                    "content": {
                        "image/*": {
                            "schema": IMAGE,
                            "examples": binary(
                                "cat.jpg", f"curl --data-binary @cat.jpg -H 'Content-Type: image/jpeg' {_ADDRESS}"
                            ),
                        },
                        "application/octet-stream": {
                            "schema": IMAGE,
                            "examples": binary("cat.jpg", f"curl --data-binary @cat.jpg {_ADDRESS}"),
                        },
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "properties": {"file": {"type": "array", "items": IMAGE}},
                            },
                            "examples": files(
                                f"curl -F file=@cat.jpg -F file=@dog.png {_ADDRESS}", "cat.jpg", "dog.png"
                            ),
                        },
                    },
                },
                "responses": {
                    "200": {
                        "description": "Classified.",
                        "content": {
                            "application/json": {
                                "schema": {"$ref": "#/components/schemas/Predictions"},
                                "examples": {
                                    "one": {"summary": "One image", "value": _example({**_CAT, "name": "image"})},
                                    "several": {
                                        "summary": "Several, one of them damaged",
                                        "value": _example(_CAT, _BROKEN),
                                    },
                                },
                            }
                        },
                    },
                    **{str(status): response for status, response in failures.items()},
                },
            }
        }
    }


def _parameter(name: str, schema: dict[str, Any], description: str, example: object) -> dict[str, Any]:
    return {
        "name": name,
        "in": "query",
        "required": False,
        "schema": schema,
        "description": description,
        "example": example,
    }


def _example(*predictions: dict[str, Any]) -> dict[str, Any]:
    return {"model": "cifar10", "version": 1, "id": "9f1c6b0a4e2d7f38", "predictions": list(predictions)}
