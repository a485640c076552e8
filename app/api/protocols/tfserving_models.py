"""How models stand, and what they take, in TensorFlow Serving's words.

`GET /v1/models/{model}` is KServe's too, in its V1: the answer has the fields of both. While the model cannot be
answered for its status is 503, as KServe has it; whoever reads TensorFlow Serving's fields finds no version AVAILABLE.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.production import production, status_of
from app.api.protocols.failures import ErrorText
from app.api.protocols.inputs import ENCODED
from app.api.protocols.routing import ProtocolRoute
from app.api.protocols.tfserving import PLACES, PREFIX, SIGNATURE, version_of
from app.api.routes import requires
from app.api.services import Services, services_of
from app.errors import ModelNotFound, StorageFailed, VersionNotFound
from app.names import check_name
from app.serving.status import ModelStatus

OUTPUT = "probabilities"
"""Whatever the graph's own output is called: what is answered are probabilities."""

_TYPES = {"uint8": "DT_UINT8", "float32": "DT_FLOAT"}
_UNCACHED = {"Cache-Control": "no-store"}
_MOST_NAMED = 20


@requires("predict", "train")
async def model(request: Request) -> Response:
    """All versions of a model, and whether it can be answered for."""
    services = services_of(request.scope)
    name = check_name(request.path_params["model"], "model")
    status, standing = status_of(services, name), await _standing(services, name)
    ready = status is not None and status.state in ("ready", "degraded") and not services.lifecycle.stopping
    document: dict[str, Any] = {
        "name": name,
        "ready": ready,
        "model_version_status": [*standing.values()],
    }
    if ready:
        return JSONResponse(document, headers=_UNCACHED)
    if services.lifecycle.stopping:
        document["error"] = "The service is shutting down."
    else:
        document["error"] = status.reason if status is not None else f"Model {name} is still loading."
    return JSONResponse(document, status_code=503, headers={**_UNCACHED, "Retry-After": "1"})


@requires("predict", "train")
async def version(request: Request) -> Response:
    """One version of a model."""
    services = services_of(request.scope)
    name, number = await _named(services, request.path_params)
    return JSONResponse({"model_version_status": await standings(services, name, number)}, headers=_UNCACHED)


@requires("predict", "train")
async def metadata(request: Request) -> Response:
    """What a version takes and answers."""
    services = services_of(request.scope)
    name, number = await _named(services, request.path_params)
    manifest = await asyncio.to_thread(services.registry.manifest, name, number)
    signature = {
        # A version whose own input has that name takes both under it.
        "inputs": {
            ENCODED: _tensor(ENCODED, "DT_STRING", [-1]),
            manifest.input.name: _tensor(
                manifest.input.name, _TYPES[manifest.input.dtype], [-1, *manifest.preprocessing.shape]
            ),
        },
        "outputs": {OUTPUT: _tensor(OUTPUT, "DT_FLOAT", [-1, len(manifest.labels)])},
        "method_name": "tensorflow/serving/predict",
    }
    return JSONResponse(
        {
            "model_spec": {"name": name, "signature_name": "", "version": str(number)},
            "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
        }
    )


def routes() -> list[ProtocolRoute]:
    """The routes that tell of models."""
    failures = ErrorText()
    return [
        ProtocolRoute(PREFIX, model, failures),
        *(ProtocolRoute(PREFIX + place, version, failures) for place in PLACES if place),
        *(ProtocolRoute(f"{PREFIX}{place}/metadata", metadata, failures) for place in PLACES),
    ]


async def standings(services: Services, name: str, number: int | None = None) -> list[dict[str, Any]]:
    """How the versions of a model stand, the newest first; or one of them.

    Raises:
        ModelNotFound, VersionNotFound, StorageFailed.
    """
    standing = await _standing(services, name)
    if number is None:
        return [*standing.values()]
    if number not in standing:
        more = ", ..." if len(standing) > _MOST_NAMED else ""
        known = ", ".join(map(str, islice(standing, _MOST_NAMED)))
        raise VersionNotFound(f"Model {name} has no version {number}. It has: {known}{more}.")
    return [standing[number]]


async def _named(services: Services, path: Mapping[str, str]) -> tuple[str, int]:
    """The model and the version that a path names."""
    name, number = check_name(path["model"], "model"), version_of(path)
    return name, await production(services, name) if number == "production" else number


async def _standing(services: Services, name: str) -> dict[int, dict[str, Any]]:
    """How each version of a model stands, the newest first.

    Raises:
        ModelNotFound, StorageFailed.
    """

    def read() -> tuple[list[int], int | None]:
        versions = services.registry.versions(name)
        entry = services.registry.production(name)
        return versions, entry.version if entry else None

    status = status_of(services, name)
    loaded = {version: doubt for (model, version), doubt in services.classifier.loaded().items() if model == name}
    try:
        versions, promoted = await asyncio.to_thread(read)
    except (ModelNotFound, StorageFailed):
        # What is loaded goes on answering while the store is away.
        if not loaded:
            raise
        versions, promoted = sorted(loaded), None
    refused = services.classifier.refused()
    standing = {}
    for version in reversed(versions):
        state, reason = _state(version, status, loaded, promoted, refused.get((name, version)))
        told = {"error_code": "UNAVAILABLE" if reason else "OK", "error_message": reason}
        standing[version] = {"version": str(version), "state": state, "status": told}
    return standing


def _state(
    version: int,
    status: ModelStatus | None,
    loaded: Mapping[int, str | None],
    promoted: int | None,
    refusal: str | None,
) -> tuple[str, str]:
    """A version's state, and why it is no better. START: it is loaded when it is first asked.

    Args:
        loaded: versions that are, and why not to trust their answers, if so.
        promoted: the version that the log names now, which `status` may not know yet.
        refusal: why the version was refused, if it was; what is promoted anew is tried again.
    """
    if version in loaded:
        doubt = loaded[version]
        return ("AVAILABLE", "") if doubt is None else ("END", doubt)
    if status is not None and version == status.production and status.state in ("degraded", "unavailable"):
        return "END", status.reason or ""
    if refusal is not None and (version != promoted or (status is not None and status.production == promoted)):
        return "END", refusal
    return ("LOADING" if version == promoted else "START"), ""


def _tensor(name: str, kind: str, shape: Sequence[int]) -> dict[str, Any]:
    return {
        "dtype": kind,
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in shape], "unknown_rank": False},
        "name": f"{name}:0",
    }
