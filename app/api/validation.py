"""What pydantic found wrong with a request, in words that say what is allowed; the command line has them from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from app.asked import plain
from app.errors import InvalidName
from app.names import PATTERN, check_name

_MOST_TOLD = 3
# What stands in the context of an error and says nothing of what is allowed.
_NOT_ALLOWED = ("error", "actual_length", "tag", "discriminator", "said", "class_name", "field_type")


def explain(entry: Mapping[str, Any], body: object, examples: Mapping[str, str]) -> dict[str, Any]:
    """One validation error: where, why, and what is allowed. Of the input, nothing but names is sent back.

    Args:
        entry: as pydantic gives it.
        body: annotation of the body.
        examples: values of query parameters that would do, by the parameters' names.
    """
    location = entry.get("loc", ())
    message = plain(entry)
    context: Mapping[str, Any] = entry.get("ctx") or {}
    allowed: dict[str, Any] = {
        key: value
        for key, value in context.items()
        if isinstance(value, (str, int, float, bool)) and key not in _NOT_ALLOWED
    }
    if entry.get("type") == "json_invalid":
        message = f"The body is not valid JSON: {context.get('error', '')} (at character {int(location[-1]) + 1})"
    elif entry.get("type") == "extra_forbidden":
        fields = _fields(body, location[1:-1])
        message = f"There is no such field. Allowed: {', '.join(fields)}"
        allowed = {"fields": fields}
    elif entry.get("type") == "string_pattern_mismatch" and context.get("pattern") == PATTERN:
        try:
            check_name(str(entry.get("input")), str(location[-1]))
        except InvalidName as error:
            message = str(error)
    elif entry.get("type") == "missing" and tuple(location[:1]) == ("query",):
        name = str(location[-1])
        message = f"required, for example ?{name}={examples[name]}" if name in examples else "required"
    explained: dict[str, Any] = {"loc": _location(location), "msg": message}
    if allowed:
        explained["allowed"] = allowed
    return explained


def sentence(explained: Mapping[str, Any]) -> str:
    """An explained error in a line: where, unless it says so itself, and why."""
    location = [str(part) for part in explained["loc"]]
    if location[:1] == ["query"]:
        del location[0]
    elif location[:1] == ["body"] and len(location) == 2 and isinstance(explained["loc"][1], int):
        return str(explained["msg"])  # the place in a body that is no JSON
    return f"{'.'.join(location)}: {explained['msg']}"


def summary(found: Sequence[Mapping[str, Any]]) -> str:
    """Explained errors in a line: the first few of them, and how many more there are."""
    more = f"; and {len(found) - _MOST_TOLD} more" if len(found) > _MOST_TOLD else ""
    return "; ".join(map(sentence, found[:_MOST_TOLD])) + more


def explain_model(error: ValidationError, model: type[BaseModel]) -> str:
    """What is wrong with the fields of a `model` that came from elsewhere than a request, as a request is told it."""
    found = [
        # Fields are found from the body on, whose name nobody has written here.
        explained | {"loc": explained["loc"][1:]}
        for entry in error.errors(include_url=False)
        for explained in [explain({**entry, "loc": ("body", *entry["loc"])}, model, {})]
    ]
    return summary(found)


def _fields(annotation: object, location: Sequence[Any]) -> list[str]:
    """Names of the fields that a body may have at a location (as pydantic gives it, with the tags of unions)."""
    models = _models(annotation)
    for part in location:
        tagged = [
            model
            for model in models
            if "name" in model.model_fields and part in get_args(model.model_fields["name"].annotation)
        ]
        nested = [model.model_fields[part].annotation for model in models if part in model.model_fields]
        # Keys of a dictionary, and tags of a union that are no names of models, lead to what is there already.
        models = tagged or [found for inner in nested for found in _models(inner)] or models
    return [name for model in models for name in model.model_fields]


def _models(annotation: object) -> list[type[BaseModel]]:
    """The models that an annotation names: itself, or members of its union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]


def _location(parts: Sequence[Any]) -> list[str | int]:
    # Keys of the body stand in here as the client sent them: cut, so that they cannot swell the answer.
    return [part if isinstance(part, int) else str(part)[:80] for part in parts]
