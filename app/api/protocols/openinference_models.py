"""The Open Inference Protocol, version 2, by HTTP: health, metadata, the model repository, statistics."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import orjson
from starlette.requests import Request
from starlette.responses import Response

from app.api.bodies import Limits, read_body
from app.api.protocols import inference_service as service
from app.api.protocols.encoded import parse_object, weight
from app.api.protocols.failures import ErrorText
from app.api.protocols.routing import ProtocolRoute
from app.api.routes import public, requires
from app.api.services import Services, services_of
from app.errors import InvalidRequest
from app.metrics import Work

# Of a request to the repository, whose body says next to nothing.
_BODY_BYTES = 16 * 1024
_UNMEASURED = {"count": 0, "ns": 0}


@public
async def live(_request: Request) -> Response:
    """200 as long as the process can answer at all."""
    return _answer({"live": True})


@public
async def ready(request: Request) -> Response:
    """200 when every model in production can be answered for; else 503."""
    is_ready = service.server_ready(services_of(request.scope))
    return _answer({"live": True, "ready": is_ready}, 200 if is_ready else 503)


@requires("predict", "train")
async def server(_request: Request) -> Response:
    """Name, version and extensions."""
    return _answer({"name": service.NAME, "version": service.VERSION, "extensions": service.EXTENSIONS})


@public
async def model_ready(request: Request) -> Response:
    """200 when a model, or the version that is named, answers; else 503 with the reason."""
    model = request.path_params["model"]
    reason = await service.model_ready(services_of(request.scope), model, _version(request))
    if reason is None:
        return _answer({"name": model, "ready": True})
    return _answer({"name": model, "ready": False, "error": reason}, 503)


@requires("predict", "train")
async def model(request: Request) -> Response:
    """What a version takes and gives."""
    found = await service.metadata(services_of(request.scope), request.path_params["model"], _version(request))
    return _answer(asdict(found))


@requires("predict", "train")
async def config(request: Request) -> Response:
    """The same in the words of Triton's configuration."""
    found = await service.config(services_of(request.scope), request.path_params["model"], _version(request))
    return _answer(asdict(found))


@requires("predict", "train")
async def statistics(request: Request) -> Response:
    """What versions have done."""
    named: str | None = request.path_params.get("model")
    found = await service.statistics(services_of(request.scope), named, _version(request))
    return _answer({"model_stats": [_statistics(*entry) for entry in found]})


@requires("predict", "train")
async def index(request: Request) -> Response:
    """How all versions stand."""
    document = await _document(request)
    only_ready = document.get("ready")
    if only_ready is not None and not isinstance(only_ready, bool):
        raise InvalidRequest('"ready" has to be true or false.')
    entries = await service.index(services_of(request.scope), ready=only_ready or False)
    return _answer([asdict(entry) for entry in entries])


@requires("admin")
async def load(request: Request) -> Response:
    """Have the version in production answer, or load one besides."""
    version = await _named_version(request, ())
    await service.load(services_of(request.scope), request.path_params["model"], version)
    return Response()


@requires("admin")
async def unload(request: Request) -> Response:
    """Let go of a version that is loaded besides the one that answers."""
    version = await _named_version(request, ("unload_dependents",))
    await service.unload(services_of(request.scope), request.path_params["model"], version)
    return Response()


def routes() -> list[ProtocolRoute]:
    """All but those that answer images."""
    failures = ErrorText()
    versioned = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
    gets = [
        ("/v2", server),
        ("/v2/health/live", live),
        ("/v2/health/ready", ready),
        # Before a model of that name.
        ("/v2/models/stats", statistics),
        *((path, model) for path in versioned),
        *((f"{path}/ready", model_ready) for path in versioned),
        *((f"{path}/config", config) for path in versioned),
        *((f"{path}/stats", statistics) for path in versioned),
    ]
    posts = [
        ("/v2/repository/index", index),
        ("/v2/repository/models/{model}/load", load),
        ("/v2/repository/models/{model}/unload", unload),
    ]
    return [
        *(ProtocolRoute(path, endpoint, failures) for path, endpoint in gets),
        *(ProtocolRoute(path, endpoint, failures, methods=["POST"]) for path, endpoint in posts),
    ]


def _answer(document: Any, status: int = 200) -> Response:
    return Response(orjson.dumps(document), status, {"Cache-Control": "no-store"}, "application/json")


def _version(request: Request) -> int | Literal["production"]:
    return service.parse_version(request.path_params.get("version"))


async def _document(request: Request) -> dict[str, Any]:
    """The request's body, an object; none is an empty one."""
    services: Services = services_of(request.scope)
    limits = Limits(min(_BODY_BYTES, services.settings.max_body_bytes), services.settings.body_timeout)
    with services.bodies.hold() as take:
        body = await read_body(request.receive, request.headers, limits, take)
        take(weight(body))
        return parse_object(body) if body.strip() else {}


async def _named_version(request: Request, ignored: tuple[str, ...]) -> int | Literal["production"]:
    """The parameter `version` of a request to load or unload; parameters of others are refused."""
    parameters = (await _document(request)).get("parameters")
    if parameters is None:
        return "production"
    if not isinstance(parameters, dict):
        raise InvalidRequest('"parameters" has to be an object.')
    if unknown := sorted(set(parameters) - {"version", *ignored}):
        raise InvalidRequest(
            f"The parameter {unknown[0][:40]!r} is not supported: how a version is loaded, its manifest says. Allowed: "
            "version."
        )
    version = parameters.get("version")
    if version is not None and type(version) not in (str, int):
        raise InvalidRequest("The parameter 'version' has to be a version's number.")
    return service.parse_version(None if version is None else str(version))


def _statistics(name: str, version: int, work: Work) -> dict[str, Any]:
    measured = {"count": work.batches, "ns": round(work.seconds * 1e9)}
    return {
        "name": name,
        "version": str(version),
        "inference_count": work.images,
        "execution_count": work.batches,
        "inference_stats": {
            "success": {"count": work.images, "ns": 0},
            "fail": _UNMEASURED,
            "queue": _UNMEASURED,
            "compute_input": _UNMEASURED,
            "compute_infer": measured,
            "compute_output": _UNMEASURED,
            "cache_hit": _UNMEASURED,
            "cache_miss": _UNMEASURED,
        },
        "batch_stats": [],
    }
