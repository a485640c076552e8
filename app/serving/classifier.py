"""From encoded images to answers: which version answers, admission, decoding, inference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.errors import FoveaError
from app.metrics import Metrics
from app.preprocessing import Float32Array
from app.serving.status import Status
from app.settings import Settings
from app.store.registry import Registry


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    model: str
    version: int
    labels: Sequence[str]
    """Class names, in the order of the probabilities."""
    results: list[Float32Array | FoveaError]
    """One for each image, in the order sent: float32 [classes] that sums to 1, or what was wrong with that image."""


class Classifier:
    """Serves the models of a store. Belongs to one event loop; its methods are called on that loop."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics) -> None: ...

    async def start(self) -> None:
        """Load the production version of every model, then follow the promotion logs until `stop`.

        Returns when each was loaded or refused (see `status`); it raises nothing on account of a version. To answer
        health checks meanwhile, run it as a task.
        """
        raise NotImplementedError

    async def stop(self) -> None:
        """Stop following, fail what still waits with NotReady, and free the engines."""
        raise NotImplementedError

    @property
    def started(self) -> bool:
        """Whether the first look at every model is over, for the startup probe."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether there is a model in production, and every such model can be answered for."""
        raise NotImplementedError

    def status(self) -> Status:
        """What is served, and why what is not is not."""
        raise NotImplementedError

    async def classify(
        self,
        images: Sequence[bytes],
        *,
        model: str | None = None,
        version: int | Literal["production"] | None = None,
    ) -> Answer:
        """Classify encoded images.

        An image that cannot be classified becomes its error in `results`; the others are answered. All are
        answered by the same version, whatever is promoted meanwhile. Cancelling the call frees its place in the queue.

        Args:
            images: encoded files, at least one.
            model: None for the default model.
            version: a number, or None or "production" for the one that the promotion log names.

        Raises:
            InvalidRequest: no image, or no model named where there are several.
            ModelNotFound: naming the models that exist.
            VersionNotFound: naming what exists.
            VersionRefused: the named version failed its checks.
            NotReady: the model is still loading, or nothing of it could be loaded.
            Overloaded: the queue is full; nothing was decoded.
        """
        raise NotImplementedError

    async def check(self, model: str, version: int) -> None:
        """Load a version beside the others and replay its golden examples; do so before promoting it.

        It is kept for a while, so that `refresh` need not load it again.

        Raises:
            ModelNotFound, VersionNotFound: there is no such version.
            VersionRefused: with the reason.
        """
        raise NotImplementedError

    async def refresh(self, model: str) -> None:
        """Follow the model's promotion log now; also retries a version that was refused.

        Returns when the version that the log names answers.

        Raises:
            ModelNotFound: there is no such model.
            VersionRefused: with the reason; what answered before goes on answering.
        """
        raise NotImplementedError
