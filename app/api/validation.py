"""What pydantic found wrong with a request, in words that say what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel


def explain(entry: Mapping[str, Any], body: object) -> dict[str, Any]:
    """One validation error: where, why, and what is allowed. The input itself is not sent back."""
    location = entry.get("loc", ())
    message = str(entry.get("msg", ""))
    context: Mapping[str, Any] = entry.get("ctx") or {}
    allowed: dict[str, Any] = {
        key: value
        for key, value in context.items()
        if isinstance(value, (str, int, float, bool)) and key not in ("error", "actual_length", "tag", "discriminator")
    }
    if entry.get("type") == "json_invalid":
        message = f"Not valid JSON: {context.get('error', '')}"
    elif entry.get("type") == "extra_forbidden":
        fields = _fields(body, location[1:-1])
        message = f"There is no such field. Allowed: {', '.join(fields)}"
        allowed = {"fields": fields}
    explained: dict[str, Any] = {"loc": _location(location), "msg": message}
    if allowed:
        explained["allowed"] = allowed
    return explained


def _fields(annotation: object, location: Sequence[Any]) -> list[str]:
    """Names of the fields that a body may have at a location (as pydantic gives it, with the tags of unions)."""
    models = _models(annotation)
    for part in location:
        tagged = [
            model for model in models if "name" in model.model_fields and model.model_fields["name"].default == part
        ]
        nested = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        models = tagged or [found for inner in nested for found in _models(inner)]
    return [name for model in models for name in model.model_fields]


def _models(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names: itself, or members of its union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _location(parts: Sequence[Any]) -> list[str | int]:
    # Keys of the body stand in here as the client sent them: cut, so that they cannot swell the answer.
    return [part if isinstance(part, int) else str(part)[:80] for part in parts]
