"""The engines that this process holds: loads each version once, keeps a few spares, closes what is done with."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, TypeVar

from app.cores import available_cores
from app.errors import FoveaError, NotReady, VersionRefused
from app.metrics import Metrics
from app.serving.batching import Engine
from app.serving.engine_choice import EngineChoice
from app.serving.versions import load_version
from app.settings import Settings
from app.store.registry import Registry
from app.trimming import trim_memory

# Versions kept loaded besides those in production: asked for by number, or checked and about to be promoted.
SPARES = 2
# Versions that are loaded or verified at a time: a slow one does not hold up the others, and memory and the threads
# that it takes stay bounded.
_LOADS = 2

_log = logging.getLogger(__name__)
T = TypeVar("T")
Key = tuple[str, int]


class Shelf:
    """Engines by model and version. Belongs to one event loop; loading runs in threads.

    What is loaded becomes a spare; the least recently used spare is retired when there are more
    than `SPARES`. `take` makes an engine the caller's, who gives it back with `retire`.
    """

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics, choice: EngineChoice) -> None:
        self._registry = registry
        self._metrics = metrics
        self._choice = choice
        self._threads = settings.inference_threads or available_cores()
        self._lanes = settings.lanes or available_cores()
        self._max_batch = settings.max_batch
        self._max_pixels = settings.max_pixels
        self._spares: OrderedDict[Key, Engine] = OrderedDict()
        self._loading: dict[Key, asyncio.Task[Engine]] = {}
        # Versions do not change: what was refused is not tried again each time that it is asked for.
        self._refusals: dict[Key, str] = {}
        self._open: set[Engine] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._slots = asyncio.Semaphore(_LOADS)
        self._serving = False
        self._stopping = False

    def spare(self, model: str, version: int) -> Engine | None:
        """The engine of a version if it is a spare."""
        engine = self._spares.get((model, version))
        if engine is not None:
            self._spares.move_to_end((model, version))
        return engine

    @property
    def engines(self) -> Collection[Engine]:
        """All that are open, those included that are on their way out."""
        return self._open

    def begin_serving(self) -> None:
        """What is loaded from now on is loaded beside others, if there are any. Until then nobody is let in, and each
        has the machine for itself: what is measured at a start holds.
        """
        self._serving = True

    async def load(self, model: str, version: int) -> Engine:
        """The engine of a version, loaded if it is no spare. Callers that want the same one share the work.

        It is not retired at the moment of the return, and may be by the next turn of the loop: `use` it at once.

        Raises:
            ModelNotFound, VersionNotFound, StorageFailed, NotReady: there is none, or it cannot be loaded now.
            VersionRefused: now, or before; see `forgive`.
        """
        while True:
            engine = self.spare(model, version) or await self._load_once((model, version))
            if not engine.retired:
                return engine

    async def take(self, model: str, version: int) -> Engine:
        """Like `load`, but the engine is no spare any more, and none that gave bad answers is returned."""
        while True:
            engine = await self.load(model, version)
            del self._spares[model, version]
            if engine.failure is None:
                return engine
            self.retire(engine)

    async def verify(self, model: str, version: int) -> None:
        """Check a version's files, which reads them all; in turn with loading.

        Raises:
            ModelNotFound, VersionNotFound, StorageFailed, VersionRefused.
        """
        async with self._slots:
            await asyncio.to_thread(self._registry.verify, model, version)

    @property
    def refusals(self) -> Mapping[Key, str]:
        """Every version that was refused and is not tried again, with the reason; see `forgive`."""
        return self._refusals

    def forgive(self, model: str, version: int | None) -> None:
        """Forget that a version, or any of a model, was refused, so that it is tried again."""
        for key in [key for key in self._refusals if key[0] == model and version in (None, key[1])]:
            del self._refusals[key]

    def discard(self, model: str, version: int | None) -> None:
        """Close the spares of a model, or the one of a version, after their last users."""
        for key in [key for key in self._spares if key[0] == model and version in (None, key[1])]:
            self.retire(self._spares.pop(key))

    def retire(self, engine: Engine, *, at_once: bool = False) -> None:
        """Close an engine after its last user; `at_once`: after the batch that runs."""
        engine.retire(at_once=at_once)
        self.spawn(self._await_closing(engine))

    async def stop(self) -> None:
        """Load nothing more, and close all engines; nobody may wait for answers any more."""
        self._stopping = True
        self._choice.stop()
        # A load cannot be broken off; what it gives is closed with the others.
        await self._finish_tasks()
        for engine in [*self._open]:
            self.retire(engine, at_once=True)
        await self._finish_tasks()

    def spawn(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """A task that outlives the request that began it, but not `stop`."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def _load_once(self, key: Key) -> Engine:
        if self._stopping:
            raise NotReady("The service is shutting down.")
        if key in self._refusals:
            raise VersionRefused(self._refusals[key])
        task = self._loading.get(key)
        if task is None:
            task = self._loading[key] = self.spawn(self._load(key))
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        return await asyncio.shield(task)

    async def _load(self, key: Key) -> Engine:
        async with self._slots:
            try:
                loaded = await asyncio.to_thread(
                    load_version,
                    self._registry,
                    *key,
                    choice=self._choice,
                    lanes=self._lanes,
                    threads=self._threads,
                    metrics=self._metrics,
                    beside=self._serving and bool(self._open),
                )
            except VersionRefused as refusal:
                self._refusals[key] = str(refusal)
                raise
        engine = Engine(
            loaded,
            lanes=self._lanes,
            max_batch=min(self._max_batch, loaded.tuning.best_batch),
            max_pixels=self._max_pixels,
            metrics=self._metrics,
        )
        self._open.add(engine)
        self._say_loaded(engine)
        self._spares[key] = engine
        while len(self._spares) > SPARES:
            self.retire(self._spares.popitem(last=False)[1])
        return engine

    async def _await_closing(self, engine: Engine) -> None:
        await engine.closed()
        self._open.discard(engine)
        self._say_loaded(engine)
        await asyncio.to_thread(trim_memory)

    def _say_loaded(self, engine: Engine) -> None:
        """Tell the metrics whether a version is loaded: after a rollback it may be so twice."""
        version = engine.loaded
        present = any((e.loaded.model, e.loaded.version) == (version.model, version.version) for e in self._open)
        self._metrics.loaded(version.model, version.version, version.runtime.name, present=present)

    async def _finish_tasks(self) -> None:
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None and not isinstance(error, FoveaError):
            _log.error("a task of the model store ended with an error", exc_info=error)
