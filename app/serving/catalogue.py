"""Which version of which model answers: follows the promotion logs of the store."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from app.errors import Conflict, FoveaError, InvalidRequest, ModelNotFound, NotReady, VersionNotFound, VersionRefused
from app.metrics import Metrics
from app.serving.batching import Engine
from app.serving.shelf import Shelf
from app.serving.status import ModelState, ModelStatus, Status
from app.settings import Settings
from app.store.manifest import Promotion
from app.store.registry import Registry

_NO_MODEL = (
    "The model store holds no model. Train one (`fovea train DATASET`, or POST /api/v1/training-jobs) or import one "
    "(`fovea models import DIR`)."
)
_NO_PRODUCTION = (
    "No model has a version in production. Promote one: `fovea models promote MODEL VERSION`, or "
    "POST /api/v1/models/{model}/promote."
)

_log = logging.getLogger(__name__)


@dataclass
class _Model:
    """What is known of a model."""

    name: str
    production: Promotion | None = None
    """The newest entry of the log that was seen."""
    followed: int = 0
    """Sequence of the entry that was last acted upon, with success or not."""
    engine: Engine | None = None
    """What answers; a swap is the assignment of another."""
    refusal: str | None = None
    """Why the version that the log names is not the one that answers."""
    refused: bool = False
    """Whether that is since it failed its checks, and trying again would not help."""
    awaited: bool = False
    """Whether readiness depends on it: it was there at the start, or has answered since. A model that is trained
    later does not take the service out of rotation while its first version loads."""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    following: asyncio.Task[None] | None = None


class Catalogue:
    """The models of a store, as one process serves them. Belongs to one event loop."""

    def __init__(self, registry: Registry, settings: Settings, metrics: Metrics, shelf: Shelf) -> None:
        self._registry = registry
        self._settings = settings
        self._metrics = metrics
        self._shelf = shelf
        self._models: dict[str, _Model] = {}
        self._poller: asyncio.Task[None] | None = None
        self._trouble: str | None = None
        self._only: str | None = None
        """The model that had a version in production at the last look, if it was the only one."""
        self._forgotten = 0
        """How many models were, so that a look which began before one was does not bring it back."""
        self._gone: set[str] = set()
        """Models that answer although they are no longer in the store."""
        self.started = False
        """Whether the first look at every model is over."""

    async def start(self) -> None:
        """Load the production version of every model, then keep following the logs."""
        begun = await self._look(awaited=True)
        default = self._settings.default_model
        if default is not None and default not in self._models and self._trouble is None:
            _log.warning(
                "FOVEA_DEFAULT_MODEL=%s names no model of the store (%s): until there is one, requests that name no "
                "model are answered with 404.",
                default,
                f"there is: {', '.join(sorted(self._models))}" if self._models else "it holds none",
            )
        await asyncio.gather(*map(asyncio.shield, begun), return_exceptions=True)
        self.started = True
        self._shelf.begin_serving()
        self._poller = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Stop following."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.gather(self._poller, return_exceptions=True)

    async def engine(self, name: str | None, version: int | None) -> Engine:
        """The engine for a request; `use` it at once. `name` None: the default model; `version` None: production.

        Raises:
            InvalidRequest, ModelNotFound, VersionNotFound, VersionRefused, NotReady, StorageFailed.
        """
        try:
            model = await self._model(self._default(version) if name is None else name)
        except ModelNotFound as error:
            if name is not None:
                raise
            raise ModelNotFound(
                f"The request names no model, and FOVEA_DEFAULT_MODEL names one that is not there. {error}"
            ) from None
        if (held := self._held(model, version)) is not None:
            return held
        if version is not None:
            return await self._shelf.load(model.name, version)
        if model.refused and model.refusal is not None:
            raise VersionRefused(f"{model.refusal} Nothing else of {model.name} can answer: promote another version.")
        if model.production is not None:
            raise NotReady(model.refusal or f"Model {model.name} is still loading; try again in a moment.")
        versions = ", ".join(map(str, await asyncio.to_thread(self._registry.versions, model.name)))
        raise VersionNotFound(
            f"Model {model.name} has no version in production. Promote one, or ask for one by its number: {versions}."
        )

    def present(self, name: str | None, version: int | None) -> Engine | None:
        """The engine for a request if it is loaded; arguments as of `engine`, which says what is wrong if it is not."""
        if name is None:
            name = self._settings.default_model or self._only
        model = self._models.get(name) if name is not None else None
        return None if model is None else self._held(model, version)

    def _held(self, model: _Model, version: int | None) -> Engine | None:
        """The engine of a version, None for the one in production, if it is loaded."""
        if model.engine is not None and (version is None or model.engine.loaded.version == version):
            return model.engine
        return None if version is None else self._shelf.spare(model.name, version)

    async def check(self, name: str, version: int) -> None:
        """Verify a version's files, load it unless it is loaded, and replay its golden examples."""
        model = await self._model(name)
        self._shelf.forgive(name, version)
        if self._held(model, version) is not None:
            await self._shelf.verify(name, version)
        else:
            await self._shelf.load(name, version)

    async def refresh(self, name: str) -> None:
        """Follow a model's log now; tries again what was refused."""
        model = await self._model(name)
        await asyncio.shield(self._shelf.spawn(self._follow(model, retry=True)))
        if model.refusal is not None:
            raise VersionRefused(model.refusal)

    async def unload(self, name: str, version: int | None) -> None:
        """Let go of a version, or of all of a model, that are loaded besides those that answer for their models.

        Raises:
            ModelNotFound: there is no such model.
            Conflict: what answers is among them. Nothing was let go.
        """
        model = await self._model(name)
        if model.engine is not None and version in (None, model.engine.loaded.version):
            raise Conflict(
                f"Version {model.engine.loaded.version} of {name} answers for it, as the promotion log says, and stays "
                "loaded. Promote another version to have it unloaded; a version that is loaded besides can be named."
            )
        self._shelf.discard(name, version)

    def loaded(self) -> dict[tuple[str, int], str | None]:
        """Every model and version that this process holds, and why its answers cannot be trusted, if so."""
        engines = [engine for engine in self._shelf.engines if not engine.retired]
        return {(engine.loaded.model, engine.loaded.version): engine.failure for engine in engines}

    def refused(self) -> Mapping[tuple[str, int], str]:
        """Every model and version that failed its checks in this process, and is not tried again; and why."""
        return self._shelf.refusals

    async def forget(self, name: str) -> None:
        """Stop answering for a model that is no longer in the store; its engine closes after its last user.

        Raises:
            ModelNotFound: there is none of that name.
        """
        model = await self._model(name)
        async with model.lock:
            if self._models.get(name) is model:
                del self._models[name]
                self._forgotten += 1
                self._metrics.gone(name)
                self._shelf.discard(name, None)
                self._shelf.forgive(name, None)
                if model.engine is not None:
                    self._shelf.retire(model.engine)
                    model.engine = None
        self._notice_choice()

    def status(self) -> Status:
        """How every model of the store stands."""
        models = {name: _status(model) for name, model in sorted(self._models.items())}
        down = [status.reason for name, status in models.items() if self._models[name].awaited and not _up(status)]
        reason: str | None
        if not self.started:
            reason = "The models are still loading."
        elif not self._models:
            reason = self._trouble or _NO_MODEL
        elif not any(model.awaited for model in self._models.values()):
            reason = _NO_PRODUCTION
        else:
            reason = " ".join(filter(None, down)) or None
        return Status(reason is None, reason, tuple(models.values()))

    def _default(self, version: int | None) -> str:
        if self._settings.default_model is not None:
            return self._settings.default_model
        names = self._in_production()
        # With none in production, the only model there is can still be asked by a version's number.
        names = names or (sorted(self._models) if version is not None else [])
        if len(names) > 1:
            raise InvalidRequest(
                f"There are several models: name one of {', '.join(names)} with `model`, or set FOVEA_DEFAULT_MODEL."
            )
        if not names:
            raise NotReady(_NO_PRODUCTION if self._models else self._trouble or _NO_MODEL)
        return names[0]

    def _in_production(self) -> list[str]:
        return sorted(name for name, model in self._models.items() if model.production is not None)

    async def _model(self, name: str) -> _Model:
        if name not in self._models:
            await self._look()  # it may have been registered since the last poll
        model = self._models.get(name)
        if model is None:
            known = ", ".join(sorted(self._models))
            raise ModelNotFound(f"There is no model {name[:80]!r}. {f'There is: {known}.' if known else _NO_MODEL}")
        return model

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval)
            try:
                await self._look()
            except Exception:
                _log.exception("looking at the promotion logs failed; trying again")

    async def _look(self, *, awaited: bool = False) -> list[asyncio.Task[None]]:
        """Read the newest entry of every model's log, and begin to follow those that are new; returns what began.

        A model that is no longer in the store goes on answering: a disk that is away must not end the service.
        """
        try:
            newest = await self._newest()
        except FoveaError as error:
            if self._trouble != str(error):
                _log.warning("%s", error)
            self._trouble = str(error)
            return []
        self._trouble = None
        begun = []
        for name, promotion in newest.items():
            model = self._models.setdefault(name, _Model(name))
            if promotion is None:
                continue
            model.production = model.production or promotion
            model.awaited |= awaited
            if promotion.sequence != model.followed and (model.following is None or model.following.done()):
                model.following = self._shelf.spawn(self._follow(model))
                begun.append(model.following)
            self._publish(model)
        self._notice_choice()
        self._notice_gone(newest.keys())
        return begun

    def _notice_choice(self) -> None:
        """Warn when requests that name no model stop being answered, since there are several from now on."""
        names = self._in_production()
        if self._only is not None and len(names) > 1 and self._settings.default_model is None:
            _log.warning(
                "Several models have a version in production: requests must name one of %s with `model` from now on; "
                "or set FOVEA_DEFAULT_MODEL.",
                ", ".join(names),
            )
        self._only = names[0] if len(names) == 1 else None

    def _notice_gone(self, present: Collection[str]) -> None:
        """Warn, once, of each model that answers although it is no longer in the store."""
        gone = {name for name, model in self._models.items() if name not in present and model.engine is not None}
        for name in sorted(gone - self._gone):
            _log.warning(
                "Model %s is no longer in the model store; what was loaded of it goes on answering until the service "
                "is started again.",
                name,
            )
        self._gone = gone

    async def _newest(self) -> dict[str, Promotion | None]:
        """The newest entry of every log, of models that were not forgotten meanwhile."""
        while True:
            forgotten = self._forgotten
            newest = await asyncio.to_thread(self._read_logs)
            if forgotten == self._forgotten:
                return newest

    def _read_logs(self) -> dict[str, Promotion | None]:
        return {name: self._registry.production(name) for name in self._registry.models()}

    async def _follow(self, model: _Model, *, retry: bool = False) -> None:
        """Make the version that the log names the one that answers.

        If it is refused, what answers goes on. If nothing answers yet, the newest version does that
        was promoted before and can be loaded.
        """
        async with model.lock:
            if self._models.get(model.name) is not model:
                return  # it was forgotten while this waited; what has its name now is followed for itself
            try:
                log = await asyncio.to_thread(self._registry.promotions, model.name)
                if log:
                    await self._act(model, log, retry=retry)
            # The store failed, not the version: the entry does not count as followed, and the next poll tries again.
            except FoveaError as error:
                if model.refusal != str(error):
                    _log.warning("model %s: %s", model.name, error)
                model.refusal, model.refused = str(error), False
            self._publish(model)
            self._notice_choice()

    async def _act(self, model: _Model, log: list[Promotion], *, retry: bool) -> None:
        newest = model.production = log[-1]
        current = model.engine
        sound = current is not None and current.failure is None
        if newest.sequence == model.followed and not (retry and (model.refusal is not None or not sound)):
            return
        model.refused = False
        refusal: FoveaError | None = None
        promoted = dict.fromkeys(entry.version for entry in reversed(log))
        for version in promoted if current is None else [newest.version]:
            if current is not None and sound and current.loaded.version == version:
                break
            if retry or version == newest.version:
                self._shelf.forgive(model.name, version)
            try:
                self._swap(model, await self._shelf.take(model.name, version))
                break
            except (VersionRefused, VersionNotFound) as error:
                refusal = refusal or error
        model.followed = newest.sequence
        model.refusal = None if refusal is None else str(refusal)
        model.refused = isinstance(refusal, VersionRefused)

    def _swap(self, model: _Model, engine: Engine) -> None:
        old, model.engine = model.engine, engine
        model.awaited = True
        self._metrics.swapped(model.name)
        _log.info("version %d of %s answers from now on", engine.loaded.version, model.name)
        if old is not None:
            self._shelf.retire(old)

    def _publish(self, model: _Model) -> None:
        self._metrics.ready(model.name, _up(_status(model)))


def _up(status: ModelStatus) -> bool:
    return status.state in ("ready", "degraded")


def _status(model: _Model) -> ModelStatus:
    engine = model.engine
    state: ModelState
    state, reason = "ready", model.refusal
    if engine is not None:
        if engine.failure is not None:
            state, reason = "unavailable", f"{engine.failure} Promote another version, or roll back."
        elif model.refusal is not None:
            state, reason = "degraded", f"{model.refusal} Version {engine.loaded.version} goes on answering."
    elif model.production is None:
        state, reason = "unpromoted", f"No version of {model.name} is in production; promote one."
    elif model.refusal is not None:
        state = "unavailable"
    else:
        state, reason = "loading", f"Model {model.name} is still loading."
    return ModelStatus(
        model=model.name,
        state=state,
        production=model.production.version if model.production else None,
        serving=engine.loaded.version if engine else None,
        runtime=engine.loaded.runtime.name if engine else None,
        tuning=engine.loaded.tuning if engine else None,
        reason=reason,
        warnings=engine.loaded.warnings if engine else (),
    )
