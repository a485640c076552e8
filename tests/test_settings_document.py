"""`docs/settings.md` and the code say the same."""

from __future__ import annotations

import re
from pathlib import Path

from app.settings import Settings


def test_every_setting_is_documented_with_its_default_and_meaning() -> None:
    """The table has a row for each setting, in the same order, with its default and description; and no other."""
    text = Path("docs/settings.md").read_text("utf-8")
    rows = re.findall(r"^\| `(FOVEA_\w+)` \| (.+?) \| (.+) \|$", text, re.MULTILINE)
    assert rows == [
        (f"FOVEA_{name.upper()}", shown(field.default), field.description)
        for name, field in Settings.model_fields.items()
    ]


def shown(default: object) -> str:
    """How the table writes a default."""
    if default is None:
        return "unset"
    return f"`{str(default).lower()}`" if isinstance(default, bool) else f"`{default}`"
