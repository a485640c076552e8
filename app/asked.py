"""What people ask for in JSON: each value is taken for what it is, and what is wrong is told in plain words.

pydantic alone would take "3" and true for numbers, and "yes" for true. Who sends these means something else, or has a
fault in a script, and should hear of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class Asked(BaseModel):
    """Base of the models that are read from what somebody wrote: frozen, and with no other fields than their own."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _as_it_is(cls, data: object) -> object:
        # Not a validator of each field: pydantic allows none before the one that tells models apart.
        if not isinstance(data, dict):
            return data
        wrong = {
            name: said
            for name, field in cls.model_fields.items()
            if name in data and (said := _refusal(field, data[name]))
        }
        if not wrong:
            return data
        found = [InitErrorDetails(type=said, loc=(name,), input=data[name]) for name, said in wrong.items()]
        # What else is wrong is told with it.
        try:
            cls.model_validate({name: value for name, value in data.items() if name not in wrong})
        except ValidationError as error:
            found += [_again(entry) for entry in error.errors() if entry["loc"] and entry["loc"][0] not in wrong]
        raise ValidationError.from_exception_data(cls.__name__, found)


def members(annotation: object) -> Iterator[object]:
    """The types of which an annotation is the union, and literals as `Literal[…]`; not what is inside of containers."""
    if get_origin(annotation) is Annotated:
        yield from members(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, UnionType):
        for argument in get_args(annotation):
            yield from members(argument)
    else:
        yield annotation


def plain(entry: Mapping[str, Any]) -> str:
    """What one of pydantic's errors says, in words that name what is allowed."""
    context: Mapping[str, Any] = entry.get("ctx") or {}
    match entry.get("type"):
        case "missing":
            return "required"
        case "too_short":
            return f"must have at least {_entries(context['min_length'])}"
        case "too_long":
            return f"must have at most {_entries(context['max_length'])}"
        case "string_too_long":
            return f"must have at most {context['max_length']:,} characters"
        case "tuple_type" | "list_type":
            return "must be a list: […]"
        case "dict_type" | "model_type" | "model_attributes_type":
            return "must be an object: {…}"
        case "string_type":
            return 'must be a string: "…"'
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "finite_number":
            return "must be finite"
        case "literal_error" | "enum":
            return f"must be {context['expected']}"
        case "greater_than_equal" | "greater_than" | "less_than_equal" | "less_than":
            return "must be " + " and ".join(_bound(name, limit) for name, limit in context.items() if name in _BOUNDS)
        case "extra_forbidden":
            return "there is no such field"
        case _:
            return str(entry.get("msg", "")).removeprefix("Value error, ")


def first_complaint(error: ValidationError) -> str:
    """The first thing that is wrong, with the dotted path of the field if it has one: "labels: required"."""
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {plain(first)}" if place else plain(first)


def _refusal(field: FieldInfo, value: object) -> PydanticCustomError | None:
    """What is wrong with a field's value, if that is its kind, or how large it is."""
    kinds = set(members(field.annotation))
    lists = [get_args(kind)[0] for kind in kinds if get_origin(kind) is tuple]
    if lists and isinstance(value, (list, tuple)):
        each = [_wanted(item, {*members(lists[0])}, {}) for item in value]
        return next((_error(f"entry {at} {said}", {}) for at, said in enumerate(each, 1) if said), None)
    bounds = _bounds(field)
    said = _wanted(value, kinds, bounds)
    return _error(said, bounds) if said else None


def _error(said: str, bounds: Mapping[str, int | float]) -> PydanticCustomError:
    return PydanticCustomError("not_allowed", "{said}", {"said": said, **bounds})


def _again(entry: ErrorDetails) -> InitErrorDetails:
    said = PydanticCustomError(entry["type"], "{said}", {**entry.get("ctx", {}), "said": entry["msg"]})
    return InitErrorDetails(type=said, loc=entry["loc"], input=entry["input"])


def _wanted(value: object, kinds: Set[object], bounds: Mapping[str, int | float]) -> str:
    """What is allowed where a number, or true or false, is wanted and something else, or one out of bounds, given."""
    truth, number = bool in kinds, bool(kinds & {int, float})
    literals = [literal for kind in kinds if get_origin(kind) is Literal for literal in get_args(kind)]
    if not (truth or number) or str in kinds or not isinstance(value, (str, int, float, NoneType)):
        return ""
    if value is None:
        right = NoneType in kinds
    elif isinstance(value, str):
        right = value in literals
    elif isinstance(value, bool):
        right = truth
    else:
        right = number and (float in kinds or value == value // 1) and _is_finite(value) and _within(value, bounds)
    if right:
        return ""
    wanted = [
        *(["true", "false"] if truth else []),
        *(repr(literal) for literal in literals),
        *(["a number" if float in kinds else "a whole number"] if number else []),
    ]
    limits = " and ".join(_bound(name, limit) for name, limit in bounds.items())
    return f"must be {_either(wanted)}{f', {limits}' if limits else ''}"


def _is_finite(value: float) -> bool:
    # Whole numbers are not looked at as floats: those with hundreds of digits have none.
    return isinstance(value, int) or math.isfinite(value)


def _within(value: float, bounds: Mapping[str, int | float]) -> bool:
    return (
        value >= bounds.get("ge", value)
        and value <= bounds.get("le", value)
        and ("gt" not in bounds or value > bounds["gt"])
        and ("lt" not in bounds or value < bounds["lt"])
    )


def _bounds(field: FieldInfo) -> dict[str, int | float]:
    found = {}
    for name in ("ge", "gt", "le", "lt"):
        for constraint in field.metadata:
            if (limit := getattr(constraint, name, None)) is not None:
                found[name] = limit
    return found


def _bound(name: str, limit: int | float) -> str:
    return f"{_BOUNDS[name]} {limit:,}" if isinstance(limit, int) else f"{_BOUNDS[name]} {limit:g}"


def _entries(number: int) -> str:
    return "1 entry" if number == 1 else f"{number:,} entries"


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
