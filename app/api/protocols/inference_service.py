"""What the Open Inference Protocol tells of the service and its models, and does with them, whatever it travels in."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import app
from app.api.pools import run_in
from app.api.production import production, status_of
from app.api.protocols.inference import BYTES, IMAGE_BYTES
from app.api.services import Services
from app.errors import Conflict, InvalidRequest, NotReady, VersionNotFound
from app.metrics import Work
from app.names import check_name
from app.serving.status import ModelStatus
from app.serving.tensors import output_name
from app.store.manifest import Manifest

NAME = "fovea"
VERSION = app.__version__
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository", "schedule_policy", "statistics")
PLATFORM = "tensorflow_savedmodel"
"""What every version is, whichever engine runs it."""

State = Literal["READY", "LOADING", "UNAVAILABLE"]

_DATATYPES = {"uint8": "UINT8", "float32": "FP32"}
_CONFIG_TYPES = {BYTES: "TYPE_STRING", "FP32": "TYPE_FP32", "UINT8": "TYPE_UINT8"}
_VERSION = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class TensorMetadata:
    """A tensor that a model takes or gives."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    """-1: any number."""


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a version takes and gives."""

    name: str
    versions: list[str]
    """All that can be asked for."""
    inputs: tuple[TensorMetadata, ...]
    """A request has one of them."""
    outputs: tuple[TensorMetadata, ...]
    platform: str = PLATFORM


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """A tensor as Triton's configuration has it."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    """Without the axis of the batch."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A version as Triton's configuration has it: as far as its clients look there for what to send."""

    name: str
    platform: str
    max_batch_size: int
    """Images that a request may have."""
    input: tuple[TensorConfig, ...]
    output: tuple[TensorConfig, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """How a version stands."""

    name: str
    version: str
    state: State
    reason: str
    """Empty where it is READY."""


def parse_version(text: str | None) -> int | Literal["production"]:
    """The version that a request names; "production" where it names none.

    Raises:
        InvalidRequest: it is no number.
    """
    if not text:
        return "production"
    if _VERSION.fullmatch(text) is None:
        raise InvalidRequest(f"The version {text[:40]!r} is not allowed. Allowed: a version's number.")
    return int(text)


def server_ready(services: Services) -> bool:
    """Whether every model in production can be answered for by every process."""
    return services.classifier.ready and services.crew.complete and not services.lifecycle.stopping


async def model_ready(services: Services, model: str, version: int | Literal["production"]) -> str | None:
    """None if the model answers, or the version is loaded; else why not.

    Raises:
        InvalidName, ModelNotFound, VersionNotFound, StorageFailed.
    """
    if services.lifecycle.stopping:
        return "The service is shutting down."
    if version == "production":
        status = status_of(services, check_name(model, "model"))
        if status is None:
            await asyncio.to_thread(services.registry.versions, model)
            return f"Model {model} is still loading."
        if status.state in ("ready", "degraded"):
            return None
        return status.reason or f"Model {model} does not answer."
    loaded = services.classifier.loaded()
    if (model, version) in loaded:
        return loaded[model, version]
    entries = await _entries(services, model)
    entry = next((entry for entry in entries if entry.version == str(version)), None)
    if entry is None:
        raise VersionNotFound(f"Model {model} has no version {version}. It has: {_named(entries)}.")
    return None if entry.state == "READY" else entry.reason


async def metadata(services: Services, model: str, version: int | Literal["production"]) -> ModelMetadata:
    """What a version takes and gives; without a number that of the one that answers, or would.

    Raises:
        InvalidName, ModelNotFound, VersionNotFound, VersionRefused, StorageFailed.
    """
    check_name(model, "model")
    number = await production(services, model) if version == "production" else version

    def read() -> tuple[Manifest, list[int]]:
        return services.registry.manifest(model, number), services.registry.versions(model)

    manifest, versions = await asyncio.to_thread(read)
    image = manifest.input
    return ModelMetadata(
        model,
        [str(number) for number in versions],
        (
            TensorMetadata(image.name, _DATATYPES[image.dtype], image.shape),
            TensorMetadata(IMAGE_BYTES, BYTES, (-1,)),
        ),
        (TensorMetadata(output_name(manifest), "FP32", (-1, len(manifest.labels))),),
    )


async def config(services: Services, model: str, version: int | Literal["production"]) -> ModelConfig:
    """How a version is configured, in Triton's words; errors as of `metadata`."""
    found = await metadata(services, model, version)
    return ModelConfig(
        found.name,
        found.platform,
        services.settings.max_files,
        tuple(map(_tensor_config, found.inputs)),
        tuple(map(_tensor_config, found.outputs)),
    )


async def index(services: Services, *, ready: bool = False) -> list[IndexEntry]:
    """How all versions of all models stand; `ready`: only those that are loaded.

    Raises:
        StorageFailed.
    """
    models = await asyncio.to_thread(services.registry.models)
    entries = [entry for model in models for entry in await _entries(services, model)]
    return [entry for entry in entries if entry.state == "READY" or not ready]


async def load(services: Services, model: str, version: int | Literal["production"] = "production") -> None:
    """Have the version that the promotion log names answer, trying again what was refused; or load one besides.

    Raises:
        InvalidName, ModelNotFound, VersionNotFound, StorageFailed.
        VersionRefused: it failed its checks; what answered goes on answering.
        NotReady: the service is starting or shutting down.
    """
    classifier = services.classifier
    check_name(model, "model")
    if version != "production":
        await classifier.check(model, version)
        return
    await classifier.refresh(model)
    status = status_of(services, model)
    if status is None or status.production is None:
        raise VersionNotFound(
            f"Model {model} has no version in production, so that there is none to load. Promote one: "
            f"POST /api/v1/models/{model}/promote."
        )
    if status.state not in ("ready", "degraded"):
        raise NotReady(status.reason or f"Model {model} is still loading.")


async def unload(services: Services, model: str, version: int | Literal["production"] = "production") -> None:
    """Let go of a version that is loaded besides the one that answers. What the promotion log names stays.

    Raises:
        InvalidName, ModelNotFound, VersionNotFound, StorageFailed.
        Conflict: it answers for its model. Nothing was unloaded.
    """
    check_name(model, "model")
    if version != "production":
        versions = await asyncio.to_thread(services.registry.versions, model)
        if version not in versions:
            raise VersionNotFound(f"Model {model} has no version {version}. It has: {', '.join(map(str, versions))}.")
    try:
        await services.classifier.unload(model, None if version == "production" else version)
    except Conflict as error:
        raise Conflict(
            f"{error} Promote with POST /api/v1/models/{model}/promote; name one with the parameter `version`."
        ) from None


async def statistics(
    services: Services, model: str | None = None, version: int | Literal["production"] = "production"
) -> list[tuple[str, int, Work]]:
    """What versions have done since the service began, in all of its processes: those of a model, or all. Those that
    are loaded are there, and those that have answered.

    Raises:
        InvalidName, ModelNotFound, VersionNotFound, StorageFailed.
    """
    if model is not None:
        known = await asyncio.to_thread(services.registry.versions, check_name(model, "model"))
        if version != "production" and version not in known:
            raise VersionNotFound(f"Model {model} has no version {version}. It has: {', '.join(map(str, known))}.")
    work = await run_in(services.pools.scraping, services.metrics.work)
    named = {key: work.get(key, Work()) for key in (*services.classifier.loaded(), *work)}
    if model is not None and version != "production":
        named.setdefault((model, version), Work())
    return [
        (name, number, done)
        for (name, number), done in sorted(named.items())
        if model in (None, name) and version in ("production", number)
    ]


def _tensor_config(tensor: TensorMetadata) -> TensorConfig:
    return TensorConfig(tensor.name, _CONFIG_TYPES[tensor.datatype], tensor.shape[1:] or (1,))


async def _entries(services: Services, model: str) -> list[IndexEntry]:
    """How the versions of a model stand."""
    versions = await asyncio.to_thread(services.registry.versions, model)
    status, loaded, refused = status_of(services, model), services.classifier.loaded(), services.classifier.refused()
    return [_entry(model, version, status, loaded, refused.get((model, version))) for version in versions]


def _entry(
    model: str,
    version: int,
    status: ModelStatus | None,
    loaded: Mapping[tuple[str, int], str | None],
    refusal: str | None,
) -> IndexEntry:
    if (model, version) in loaded:
        failure = loaded[model, version]
        return IndexEntry(model, str(version), "UNAVAILABLE" if failure else "READY", failure or "")
    # Of the version in production the status says more, unless an earlier one is being tried.
    if refusal is not None and (status is None or status.production != version or status.state == "loading"):
        return IndexEntry(model, str(version), "UNAVAILABLE", refusal)
    if status is not None and status.production == version:
        state: State = "LOADING" if status.state == "loading" else "UNAVAILABLE"
        return IndexEntry(model, str(version), state, status.reason or f"Version {version} is not loaded.")
    reason = f"Version {version} of {model} is not loaded; the first request that names it has it loaded."
    return IndexEntry(model, str(version), "UNAVAILABLE", reason)


def _named(entries: list[IndexEntry]) -> str:
    return ", ".join(entry.version for entry in entries)
