"""Other servers' protocols: their clients need no change. An adapter parses, asks the classifier, and renders."""

from __future__ import annotations

from collections.abc import Sequence

from app.api.protocols import kserve, openinference, openinference_models, tfserving, tfserving_models
from app.api.protocols.routing import ProtocolRoute, route_of
from app.api.ways import Way


def ways() -> list[Way]:
    """All that answer images."""
    return [*tfserving.ways(), *openinference.ways()]


def routes(ways: Sequence[Way]) -> list[ProtocolRoute]:
    """The routes of `ways`, and all others of the protocols."""
    return [*map(route_of, ways), *tfserving_models.routes(), *kserve.routes(), *openinference_models.routes()]
