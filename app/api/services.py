"""What the routes delegate to. `app.main.create_app` builds it; it hangs on the application's state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.types import Scope

from app.api.budget import Budget
from app.api.crew import Crew
from app.api.pools import Pools
from app.api.security import Keys
from app.api.tracing import Tracing
from app.jobs.jobs import Jobs
from app.metrics import Metrics
from app.serving.classifier import Classifier
from app.serving.explaining import Explaining
from app.settings import Settings
from app.store.datasets import Datasets
from app.store.registry import Registry


@dataclass
class Lifecycle:
    """Where the process stands."""

    stopping: bool = False
    """Set at SIGTERM: not ready from then on, and streams end. A plain flag, since signal handlers may not wait for
    locks."""
    loaded: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first look at every model is over."""


@dataclass(frozen=True)
class Services:
    """The rooms below, wired once."""

    settings: Settings
    metrics: Metrics
    registry: Registry
    classifier: Classifier
    datasets: Datasets
    jobs: Jobs
    keys: Keys | None
    """None: the service takes requests without keys."""
    explaining: Explaining
    bodies: Budget
    """What the bodies of predict requests may take together."""
    crew: Crew = field(default_factory=Crew)
    """The processes that share the port."""
    tracing: Tracing | None = None
    """None: requests are not traced."""
    pools: Pools = field(default_factory=Pools)
    lifecycle: Lifecycle = field(default_factory=Lifecycle)


def services_of(scope: Scope) -> Services:
    """The services of the application that handles the request."""
    return services_of_app(scope["app"])


def services_of_app(app: Any) -> Services:
    """The services of an application that `app.main` assembled."""
    return cast(Services, app.state.services)
