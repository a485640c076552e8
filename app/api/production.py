"""Which version of a model is meant when none is named."""

from __future__ import annotations

import asyncio

from app.api.services import Services
from app.errors import VersionNotFound
from app.serving.status import ModelStatus


def status_of(services: Services, model: str) -> ModelStatus | None:
    """How a model stands; None for one that is not known, or was registered a moment ago."""
    return next((status for status in services.classifier.status().models if status.model == model), None)


async def production(services: Services, model: str) -> int:
    """The version that answers, or else would.

    Raises:
        InvalidName, ModelNotFound, StorageFailed.
        VersionNotFound: none was promoted; the message says which there are.
    """
    status = status_of(services, model)
    if status is not None and status.serving is not None:
        return status.serving
    entry = await asyncio.to_thread(services.registry.production, model)
    if entry is None:
        versions = ", ".join(map(str, await asyncio.to_thread(services.registry.versions, model)))
        raise VersionNotFound(
            f"Model {model} has no version in production. Promote one, or ask for one by its number: {versions}."
        )
    return entry.version
