"""`docs/settings.md` and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from app.settings import Settings

KINDS: dict[Any, str] = {str: "text", Path: "a path", bool: "`true`, `false`", int: "whole number", float: "number"}


def test_every_setting_is_documented_with_what_is_allowed() -> None:
    """The table has a row for each setting, in the same order, with its default, allowed values and description; and
    no other."""
    text = Path("docs/settings.md").read_text("utf-8")
    rows = re.findall(r"^\| `(FOVEA_\w+)` \| (.+?) \| (.+?) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [
        (f"FOVEA_{name.upper()}", shown(field.default), allowed(field), field.description)
        for name, field in Settings.model_fields.items()
    ]


def shown(default: object) -> str:
    """How the table writes a default."""
    if default is None:
        return "unset"
    return f"`{str(default).lower()}`" if isinstance(default, bool) else f"`{default}`"


def allowed(field: FieldInfo) -> str:
    """How the table writes what a setting may be: its values, or its kind and bounds."""
    annotation: Any = field.annotation
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{value}`" for value in get_args(annotation))
    words = [part for part in get_args(annotation) if get_origin(part) is Literal]
    if words:
        [number] = [part for part in get_args(annotation) if part not in words]
        return f"`{get_args(words[0])[0]}`, or {allowed(FieldInfo.from_annotation(number))}"
    kind = next(KINDS[kind] for kind in (annotation, *get_args(annotation)) if kind in KINDS)
    lower = next((f"from {bound.ge:,}" for bound in field.metadata if hasattr(bound, "ge")), "")
    above = next((f"above {bound.gt:,}" for bound in field.metadata if hasattr(bound, "gt")), "")
    upper = next((f"to {bound.le:,}" for bound in field.metadata if hasattr(bound, "le")), "")
    return " ".join(filter(None, (kind, lower, above and (f"{above}, up" if upper else above), upper)))
