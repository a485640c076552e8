"""Other servers' protocols: their clients need no change. An adapter parses, asks the classifier, and renders."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import Match

from app.api.protocols import (
    kserve,
    openinference,
    openinference_models,
    sagemaker,
    sagemaker_models,
    tfserving,
    tfserving_models,
    vertex,
)
from app.api.protocols.routing import ProtocolRoute, route_of
from app.api.ways import Way, Ways
from app.settings import Settings


def ways(settings: Settings) -> list[Way]:
    """All that answer images."""
    found = [*tfserving.ways(), *openinference.ways(), *sagemaker.ways(), *sagemaker_models.ways()]
    route = settings.predict_route
    # Where there is one already it is meant.
    taken = route is not None and Ways(found).find(route.encode()) is not None
    return [*found, *vertex.ways(None if taken else route)]


def routes(ways: Sequence[Way], settings: Settings) -> list[ProtocolRoute]:
    """The routes of `ways`, and all others of the protocols."""
    found = [
        *map(route_of, ways),
        *tfserving_models.routes(),
        *kserve.routes(),
        *openinference_models.routes(),
        *sagemaker.routes(),
        *sagemaker_models.routes(),
    ]
    route = settings.health_route
    scope = {"type": "http", "method": "GET", "path": route or "", "root_path": ""}
    taken = route is not None and any(each.matches(scope)[0] is Match.FULL for each in found)
    return [*found, *vertex.routes(None if taken else route)]
