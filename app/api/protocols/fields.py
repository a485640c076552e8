"""Fields of JSON bodies: those that exist, and no others."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from app.errors import InvalidRequest


def check_fields(document: dict[str, Any], allowed: Collection[str], where: str = "The body") -> None:
    """Refuse fields that do not exist: a typing error must not quietly mean the default.

    Raises:
        InvalidRequest: naming one, and those that do.
    """
    if unknown := sorted(document.keys() - set(allowed)):
        raise InvalidRequest(f"{where} has an unknown field {unknown[0][:40]!r}. Allowed: {', '.join(allowed)}.")
