"""Places in the paths of several protocols, as the OpenAPI document has them."""

from __future__ import annotations

from typing import Any

from app.names import PATTERN

MODEL: dict[str, Any] = {
    "name": "model",
    "in": "path",
    "description": "The model's name.",
    "required": True,
    "schema": {"type": "string", "pattern": PATTERN},
    "example": "cifar10",
}
NUMBER: dict[str, Any] = {
    "name": "version",
    "in": "path",
    "description": "A version's number.",
    "required": True,
    "schema": {"type": "string", "pattern": "^[1-9][0-9]{0,8}$"},
    "example": "1",
}
