"""What the OpenAPI document says of other servers' protocols."""

from __future__ import annotations

from typing import Any

from app.api.protocols import (
    kserve_document,
    openinference_document,
    responses,
    sagemaker_document,
    tfserving_document,
    vertex_document,
)
from app.settings import Settings

TAG = {"name": "protocols", "description": "Other servers' protocols, for clients that speak them already."}
SCHEMAS: dict[str, Any] = {**responses.SCHEMAS, **tfserving_document.SCHEMAS, **openinference_document.SCHEMAS}


def paths(settings: Settings) -> dict[str, Any]:
    """The path items of all protocols."""
    return {
        **tfserving_document.paths(),
        **kserve_document.paths(),
        **openinference_document.paths(),
        **sagemaker_document.paths(),
        **vertex_document.paths(settings.predict_route, settings.health_route),
    }
