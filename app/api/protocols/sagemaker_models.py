"""SageMaker's contract for multi-model endpoints: it lays models down, and has them loaded, asked and unloaded by name.

Source: "Custom Containers Contract for Multi-Model Endpoints" of SageMaker's developer guide. The store says what
exists: to load a model is to take its version into the store, under the name that SageMaker gives it, and to unload it
is to remove it from there. So it is only done where the store is made for that (`FOVEA_MULTI_MODEL`); else the models
of the store can be listed and asked by name, and are there to stay.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from app.api.bodies import Limits, read_body
from app.api.protocols.encoded import parse_object
from app.api.protocols.failures import ErrorText
from app.api.protocols.fields import check_fields
from app.api.protocols.routing import ProtocolRoute
from app.api.protocols.sagemaker import Invocation, body_weight
from app.api.routes import check_query, requires
from app.api.security import caller
from app.api.services import Services, services_of
from app.api.ways import Head, Way
from app.errors import Conflict, FoveaError, InvalidName, InvalidRequest, ModelNotFound, StorageFailed
from app.names import check_name
from app.serving.sizing import free_memory
from app.store.arrival import adopt, find_version

_MOST_BYTES = 64 * 1024
_LONGEST_NAME = 1024
# Beside the weights themselves: what an engine makes of them.
_MEMORY_FACTOR = 2


class Loaded:
    """The models that were loaded by HTTP. Belongs to one application and its event loop."""

    def __init__(self) -> None:
        self._urls: dict[str, tuple[str, str]] = {}
        """SageMaker's name, and where the model lay, by the name in the store."""
        self._busy: set[str] = set()
        """Models that are being loaded or unloaded."""

    @requires("admin")
    async def load(self, request: Request) -> Response:
        """`POST /models`: load the model that lies in the folder `url`, to be asked for by `model_name`."""
        services = services_of(request.scope)
        limits = Limits(_MOST_BYTES, services.settings.body_timeout)
        document = parse_object(await read_body(request.receive, request.headers, limits))
        check_fields(document, ("model_name", "url"))
        name, url = document.get("model_name"), document.get("url")
        if not isinstance(name, str) or not isinstance(url, str) or not 1 <= len(name) <= _LONGEST_NAME:
            raise InvalidRequest(
                f'The body needs "model_name", a string of 1 to {_LONGEST_NAME} characters, and "url", a folder.'
            )
        key = store_name(name)
        with self._alone(key):
            # The store says what exists, however it came there.
            if key in await asyncio.to_thread(services.registry.models):
                raise Conflict(f"The model {name[:80]!r} is loaded already.")
            folder = await asyncio.to_thread(_allowed, services, url)
            by = f"{caller(request.scope)} (SageMaker)"
            await asyncio.to_thread(_adopt, services, folder, by, key)
            await self._begin(services, key)
            self._urls[key] = name, url
        return JSONResponse(self._entry(key))

    @requires("predict")
    async def list(self, request: Request) -> Response:
        """`GET /models`: all at once, so that there is never a next page."""
        check_query(request.scope, ("next_page_token",))
        models = await asyncio.to_thread(services_of(request.scope).registry.models)
        return JSONResponse({"models": [self._entry(model) for model in models]})

    @requires("predict")
    async def describe(self, request: Request) -> Response:
        """`GET /models/{model}`."""
        key = store_name(request.path_params["model"])
        await asyncio.to_thread(services_of(request.scope).registry.versions, key)
        return JSONResponse(self._entry(key))

    @requires("admin")
    async def unload(self, request: Request) -> Response:
        """`DELETE /models/{model}`: what is asked of it meanwhile is answered."""
        services = services_of(request.scope)
        key = store_name(request.path_params["model"])
        if services.settings.multi_model is None:
            await asyncio.to_thread(services.registry.versions, key)
            raise Conflict(
                "The models of this store are there to stay: only on a multi-model endpoint (FOVEA_MULTI_MODEL) can "
                "they be unloaded."
            )
        with self._alone(key):
            await self._end(services, key)
        return JSONResponse({})

    @contextmanager
    def _alone(self, key: str) -> Iterator[None]:
        """Load or unload one model once at a time."""
        if key in self._busy:
            raise Conflict("The model is being loaded or unloaded; ask again in a moment.")
        self._busy.add(key)
        try:
            yield
        finally:
            self._busy.discard(key)

    async def _begin(self, services: Services, key: str) -> None:
        try:
            await services.classifier.refresh(key)
        except FoveaError:
            # Not loaded is not there: SageMaker would not unload it, and could not load it again.
            await self._end(services, key)
            raise

    async def _end(self, services: Services, key: str) -> None:
        await asyncio.to_thread(services.registry.remove, key)
        self._urls.pop(key, None)
        await services.classifier.forget(key)

    def _entry(self, key: str) -> dict[str, Any]:
        name, url = self._urls.get(key, (key, None))
        return {"modelName": name} if url is None else {"modelName": name, "modelUrl": url}


def store_name(name: str) -> str:
    """The name in the store of the model that SageMaker calls `name`: the same, where it may be one.

    SageMaker's are opaque: they are longer than ours may be, or anything else.
    """
    try:
        return check_name(name, "model")
    except InvalidName:
        return f"m-{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}"


def ways() -> list[Way]:
    """The route that answers images."""
    return [Way("/models/{model}/invoke", _invoke, ErrorText(), weight=body_weight)]


def routes() -> list[ProtocolRoute]:
    """All other routes."""
    loaded, failures = Loaded(), ErrorText()
    return [
        _Loading("/models", loaded.load, failures, methods=["POST"]),
        ProtocolRoute("/models", loaded.list, failures),
        ProtocolRoute("/models/{model}", loaded.describe, failures),
        _Loading("/models/{model}", loaded.unload, failures, methods=["DELETE"]),
    ]


class _Loading(ProtocolRoute):
    loads = True


def _invoke(head: Head) -> Invocation:
    return Invocation(head, store_name(head.path["model"]))


def _allowed(services: Services, url: str) -> Path:
    """The folder of a version that may be loaded from `url`.

    Raises:
        Conflict: nothing may be loaded here.
        InvalidRequest: it leads elsewhere, or there is no version in it.
        StorageFailed: there is no memory left for it.
    """
    root = services.settings.multi_model
    if root is None:
        raise Conflict(
            "Only on a multi-model endpoint (SAGEMAKER_MULTI_MODEL=true, or FOVEA_MULTI_MODEL) are models loaded by "
            "HTTP; here they are those of the store."
        )
    try:
        folder = Path(url).resolve()
    except (OSError, ValueError, RuntimeError):
        raise InvalidRequest('"url" is no path.') from None
    if not folder.is_relative_to(root.resolve()):
        raise InvalidRequest(f'"url" is not allowed. Allowed: a folder below {root}.')
    try:
        version = find_version(folder)
        size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
    except OSError as error:
        # Such as a name that is longer than any can be.
        raise InvalidRequest(f'What "url" names cannot be read: {error.strerror or error}.') from None
    free = free_memory()
    if free is not None and size * _MEMORY_FACTOR > free:
        # SageMaker unloads others then, and tries again.
        raise StorageFailed(f"The model takes some {size * _MEMORY_FACTOR:,} bytes of memory, and {free:,} are free.")
    return version


def _adopt(services: Services, folder: Path, by: str, key: str) -> None:
    try:
        adopt(folder, services.registry, by=by, name=key)
    except FoveaError:
        # Half of it may be there.
        with suppress(ModelNotFound):
            services.registry.remove(key)
        raise
