"""What the OpenAPI document says of the errors of other servers' protocols."""

from __future__ import annotations

from typing import Any

from app.api import errors

SCHEMAS: dict[str, Any] = {
    "ErrorText": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string", "description": "What is wrong, and what is allowed."}},
    }
}

# What every route that answers images can end in.
PREDICTING = (
    "invalid_request",
    "invalid_name",
    "model_not_found",
    "version_not_found",
    "request_timeout",
    "payload_too_large",
    "image_too_large",
    "unsupported_image_format",
    "invalid_image",
    "version_refused",
    "overloaded",
    "deadline_exceeded",
    "inference_failed",
    "not_ready",
)


def failures(*codes: str) -> dict[str, Any]:
    """The `responses` of a route that can end in errors of these codes, or in what every route can."""
    table = errors.codes()
    everywhere = ("unauthorized", "forbidden", "error")
    responses: dict[str, Any] = {}
    for code in sorted({*codes, *everywhere}, key=lambda code: (table[code][0], code)):
        status, title, explanation = table[code]
        example = {"summary": title, "value": {"error": explanation}}
        response = responses.setdefault(
            str(status),
            {
                "description": "",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/ErrorText"}, "examples": {}},
                },
            },
        )
        response["description"] = f"{response['description']}; {title}".removeprefix("; ")
        response["content"]["application/json"]["examples"][code] = example
    return responses
