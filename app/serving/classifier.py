"""From encoded images to answers: admission, then the version that answers, then decoding and inference."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.errors import DeadlineExceeded, FoveaError, InvalidRequest, NotReady
from app.metrics import Metrics
from app.preprocessing import Float32Array
from app.serving.admission import Admission
from app.serving.batching import Engine
from app.serving.catalogue import Catalogue
from app.serving.engine_choice import EngineChoice
from app.serving.runtimes.base import RuntimeLoader
from app.serving.shelf import Shelf
from app.serving.status import Status
from app.serving.tensors import PROBABILITIES, Image, output_name
from app.serving.ticket import Stage, Ticket
from app.serving.versions import LoadedVersion
from app.serving.visit import Visit
from app.settings import Settings
from app.store.registry import Registry

# What a client may be told to wait, in seconds; and what it is told when nothing is known.
_SHORTEST_WAIT, _UNKNOWN_WAIT, _LONGEST_WAIT = 0.1, 1.0, 60.0
# Who would be answered later than after this part of the time that is left is turned away. The wait is an estimate, and
# an image that misses its deadline at the very end has cost as much as an answer; a queue of half a deadline is long
# enough to keep the lanes busy.
_PUNCTUALITY = 0.5

_STOPPING = "The service is not running: it is starting or shutting down."


@dataclass(frozen=True)
class Answer:
    """What came of one request."""

    model: str
    version: int
    labels: Sequence[str]
    """Class names, in the order of the probabilities."""
    results: list[Float32Array | FoveaError]
    """One for each image, in the order sent: float32 [classes] that sums to 1, or what was wrong with that image."""
    unknown_below: float | None = None
    """Highest probability under which the image had better be called unknown; None where the version does not say."""
    input: str = "image"
    """Name of the version's input, under which its tensors come."""
    output: str = PROBABILITIES
    """What the version's graph calls its output, where that is what is answered."""

    @classmethod
    def of(cls, loaded: LoadedVersion, results: list[Float32Array | FoveaError]) -> Answer:
        """What a version answered."""
        manifest = loaded.manifest
        unknown = manifest.unknown
        return cls(
            loaded.model,
            loaded.version,
            manifest.labels,
            results,
            None if unknown is None else unknown.threshold,
            manifest.input.name,
            output_name(manifest),
        )


class Classifier:
    """Serves the models of a store. Belongs to one event loop; its methods are called on that loop."""

    def __init__(
        self, registry: Registry, settings: Settings, metrics: Metrics, *, load_runtime: RuntimeLoader | None = None
    ) -> None:
        """Opens nothing yet. `load_runtime` stands in for the engine that the settings choose."""
        self._settings = settings
        self._metrics = metrics
        choice = (
            EngineChoice.only(load_runtime, max_batch=settings.max_batch) if load_runtime else EngineChoice.of(settings)
        )
        self._shelf = Shelf(registry, settings, metrics, choice)
        self._catalogue = Catalogue(registry, settings, metrics, self._shelf)
        self._admission = Admission(settings.max_queue, metrics, self.retry_after)
        self._running = False
        self._tickets: set[Ticket] = set()

    async def start(self) -> None:
        """Load the production version of every model, then follow the promotion logs until `stop`.

        Returns when each was loaded or refused (see `status`); it raises nothing on account of a version. To answer
        health checks meanwhile, run it as a task.
        """
        self._running = True
        await self._catalogue.start()

    async def stop(self) -> None:
        """Stop following, fail what still waits with NotReady, and free the engines."""
        self._running = False
        await self._catalogue.stop()
        for ticket in [*self._tickets]:
            ticket.fail(NotReady(_STOPPING))
        await self._shelf.stop()

    @property
    def started(self) -> bool:
        """Whether the first look at every model is over, for the startup probe."""
        return self._catalogue.started

    @property
    def ready(self) -> bool:
        """Whether there is a model in production, and every such model can be answered for."""
        return self._running and self.status().ready

    def status(self) -> Status:
        """What is served, and why what is not is not."""
        return self._catalogue.status()

    def retry_after(self) -> float:
        """Seconds in which what waits now will have been answered, as far as that can be told."""
        waits = [wait for engine in self._shelf.engines if (wait := engine.wait()) is not None]
        return min(max(sum(waits), _SHORTEST_WAIT), _LONGEST_WAIT) if waits else _UNKNOWN_WAIT

    def check_admission(
        self,
        *,
        model: str | None = None,
        version: int | Literal["production"] | None = None,
        deadline: float = math.inf,
    ) -> None:
        """Whether a request of one image would be let in now; to be asked before its body is read.

        Raises:
            Overloaded: the queue is full, or so long that the answer would come after `deadline`.
        """
        self._admission.check()
        engine = self._catalogue.present(model, None if version == "production" else version)
        if engine is not None:
            self._check_wait(engine, 1, deadline)

    async def classify(
        self,
        images: Sequence[Image],
        *,
        model: str | None = None,
        version: int | Literal["production"] | None = None,
        deadline: float = math.inf,
        stages: list[Stage] | None = None,
    ) -> Answer:
        """Classify images.

        An image that cannot be classified becomes its error in `results`; the others are answered. All are
        answered by the same version, whatever is promoted meanwhile. Cancelling the call frees its place in the queue.

        Args:
            images: encoded files or tensors, at least one.
            model: None for the default model.
            version: a number, or None or "production" for the one that the promotion log names.
            deadline: by `time.monotonic`; what was not begun by then never is.
            stages: grows by what is done for the call, if it is there.

        Raises:
            InvalidRequest: no image, or no model named where there are several.
            ModelNotFound: naming the models that exist.
            VersionNotFound: naming what exists.
            VersionRefused: the version failed its checks; where none is named, so did all that were in production.
            NotReady: the model is still loading, or the store cannot be read.
            Overloaded: the queue is full, or too long for the deadline; nothing was decoded.
            DeadlineExceeded: the deadline passed before all images were answered.
        """
        if not images:
            raise InvalidRequest("The request holds no image; at least one is needed.")
        wanted = None if version == "production" else version
        # Before all else, so that what waits for a version to load is bounded too.
        with self._admission.enter(len(images)):
            try:
                engine = self._catalogue.present(model, wanted)
                if engine is None:
                    engine = await self._loaded(model, wanted, deadline)
                if not self._running:
                    raise NotReady(_STOPPING)
                self._check_wait(engine, len(images), deadline)
                ticket = Ticket(images, loop=engine.loop, deadline=deadline, stages=stages)
                self._tickets.add(ticket)
                try:
                    with engine:
                        results = await engine.classify(ticket)
                finally:
                    self._tickets.discard(ticket)
            except DeadlineExceeded as error:
                self._metrics.rejected(error.code, len(images))
                raise
        return Answer.of(engine.loaded, results)

    def visit(
        self,
        image: Image,
        then: Callable[[Visit], None],
        *,
        model: str | None,
        version: int | Literal["production"],
        deadline: float,
    ) -> Visit | None:
        """Classify one image without a task that waits for it: `then` is called with the visit once it has its result.

        None, and nothing was done or counted, where that cannot be: the image is not one to be answered on the event
        loop, or its version is not loaded. `classify` takes it, or says what is wrong. Arguments as of `classify`.

        Raises:
            Overloaded: the queue is full, or too long for the deadline.
        """
        engine = self._catalogue.present(model, None if version == "production" else version)
        if engine is None or not engine.takes_here(image) or not self._running:
            return None
        self._admission.check()
        self._check_wait(engine, 1, deadline)
        return Visit(image, then, engine, self._admission, self._metrics, self._tickets, deadline)

    async def check(self, model: str, version: int) -> None:
        """Load a version beside the others and replay its golden examples; do so before promoting it.

        It is kept for a while, so that `refresh` need not load it again.

        Raises:
            ModelNotFound, VersionNotFound: there is no such version.
            VersionRefused: with the reason.
        """
        await self._catalogue.check(model, version)

    async def refresh(self, model: str) -> None:
        """Follow the model's promotion log now; also retries a version that was refused.

        Returns when the version that the log names answers.

        Raises:
            ModelNotFound: there is no such model.
            VersionRefused: with the reason; what answered before goes on answering.
        """
        await self._catalogue.refresh(model)

    async def unload(self, model: str, version: int | None = None) -> None:
        """Let go of a version, or of all of a model, that are loaded besides those that answer for their models.

        Only in this process, and until a request names them.

        Raises:
            ModelNotFound: there is no such model.
            Conflict: what answers is among them. Nothing was let go.
        """
        await self._catalogue.unload(model, version)

    def loaded(self) -> dict[tuple[str, int], str | None]:
        """Every model and version that this process holds, and why its answers cannot be trusted, if so."""
        return self._catalogue.loaded()

    def refused(self) -> Mapping[tuple[str, int], str]:
        """Every model and version that failed its checks in this process, and is not tried again; and why."""
        return self._catalogue.refused()

    async def forget(self, model: str) -> None:
        """Serve a model no longer that was removed from the store; its last requests are answered.

        Raises:
            ModelNotFound: none of that name is served.
        """
        await self._catalogue.forget(model)

    async def _loaded(self, model: str | None, version: int | None, deadline: float) -> Engine:
        """The engine for a request, which may have to be loaded first; errors as of `classify`."""
        if deadline == math.inf:
            return await self._catalogue.engine(model, version)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._catalogue.engine(model, version)
        except TimeoutError:
            raise DeadlineExceeded("The version was not loaded by the request's deadline; try again.") from None

    def _check_wait(self, engine: Engine, images: int, deadline: float) -> None:
        """Raise Overloaded if an engine would answer so many images too late."""
        if deadline == math.inf or (wait := engine.wait(images)) is None:
            return
        left = deadline - time.monotonic()
        if wait > left * _PUNCTUALITY:
            raise self._admission.refusal(
                f"The answer would take some {wait:.1f} s, and the request allows {max(left, 0):.1f} s.", images
            )
