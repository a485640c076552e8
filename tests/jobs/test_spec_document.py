"""`docs/training.md` and the spec say the same."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from app.jobs.networks import Pretrained, ResNetSmall, SimpleCNN
from app.jobs.search import Range, Search
from app.jobs.spec import TrainingSpec

ARCHITECTURES = {SimpleCNN: "simple_cnn", ResNetSmall: "resnet_small", Pretrained: "keras.applications"}


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, itself or within a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (typing.Union, UnionType):
        return [model for argument in get_args(annotation) for model in _models(argument)]
    return []


def _values(annotation: Any) -> list[str]:
    """The values that an annotation names, where it does; a factor for each class counts as one."""
    if get_origin(annotation) is Literal:
        return [f"`{value}`" for value in get_args(annotation)]
    if annotation is bool:
        return ["`true`", "`false`"]
    if get_origin(annotation) is tuple:
        return _values(get_args(annotation)[0])
    if annotation == Search.model_fields["space"].annotation:
        return ["`{field: [value, …]}`", "`{field: {low, high, log, step}}`"]
    if get_origin(annotation) is dict:
        return ['`{"class": factor}`']
    if get_origin(annotation) in (typing.Union, UnionType):
        return [value for argument in get_args(annotation) for value in _values(argument)]
    return []


def _allowed(field: FieldInfo) -> str:
    if values := _values(field.annotation):
        return ", ".join(values)
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}
    bounds = [
        f"{sign} {getattr(constraint, name)}"
        for constraint in field.metadata
        for name, sign in signs.items()
        if getattr(constraint, name, None) is not None
    ]
    return ", ".join(bounds)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None:
        return "chosen"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{list(value)}`" if isinstance(value, tuple) else f"`{value}`"


def rows(model: type[BaseModel] = TrainingSpec, prefix: str = "") -> Iterator[str]:
    """A row of the table for each field that holds a value."""
    for name, field in model.model_fields.items():
        models = _models(field.annotation)
        if not models:
            yield f"| `{prefix}{name}` | {_default(field)} | {_allowed(field)} | {field.description} |"
        for inner in models:
            architecture = f" ({ARCHITECTURES[inner]})" if inner in ARCHITECTURES else ""
            for row in rows(inner, f"{prefix}{name}."):
                yield row.replace("` |", f"`{architecture} |", 1)
    if model is Search:
        yield from rows(Range, f"{prefix}space.*.")


def test_every_field_of_the_spec_is_in_the_table() -> None:
    """The table has a row for each field, with its default, its bounds and its meaning, and no other."""
    text = Path("docs/training.md").read_text("utf-8")
    documented = [line for line in text.splitlines() if line.startswith("| `")]
    expected = list(rows())
    assert all("| None |" not in row for row in expected), "every field has a description"
    assert documented == expected
