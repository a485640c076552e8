"""Models and versions: what there is, and which of it answers."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Body, Request
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from app.api.examples import (
    MODEL,
    MODELS,
    PROMOTE,
    PROMOTED,
    PROMOTIONS,
    ROLLBACK,
    ROLLED_BACK,
    VERSION,
    answer,
)
from app.api.guarded import GuardedRoute
from app.api.openapi import problems
from app.api.routes import requires
from app.api.sandbox import SANDBOX
from app.api.schemas import (
    EngineTuning,
    ModelDocument,
    ModelList,
    ModelSummary,
    PromoteRequest,
    PromotionEntry,
    PromotionList,
    RollbackRequest,
    VersionDocument,
    VersionSummary,
)
from app.api.security import caller
from app.api.services import Services, services_of
from app.errors import NotFound, VersionRefused
from app.names import check_name
from app.serving.status import ModelStatus
from app.store.manifest import EVALUATION
from app.store.registry import Registry

router = APIRouter(prefix="/api/v1/models", tags=["models"], route_class=GuardedRoute)

Model = Annotated[str, PathParameter(description="Name of a model.", examples=["cifar10"])]
Version = Annotated[int, PathParameter(ge=1, le=999_999_999, description="Number of a version.", examples=[1])]

_REPORT = "report.json"
_MOST_NAMED = 20

# What an evaluation holds. Anything else is offered for download only.
_TYPES = {
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".json": "application/json",
    ".html": "text/html; charset=utf-8",
    ".txt": "text/plain; charset=utf-8",
    ".csv": "text/csv; charset=utf-8",
}


@router.get(
    "", summary="List the models", responses={**answer("All models.", models=MODELS), **problems("storage_failed")}
)
@requires("predict", "train")
async def list_models(request: Request) -> ModelList:
    """All models of the store: versions, which one is production, which one answers, and whether it is well."""
    services = services_of(request.scope)
    names = await asyncio.to_thread(services.registry.models)
    return ModelList(models=[await _summary(services, name) for name in names])


@router.get(
    "/{model}",
    summary="Show a model",
    responses={
        **answer("The model.", model=MODEL),
        **problems("invalid_name", "model_not_found", "storage_failed"),
    },
)
@requires("predict", "train")
async def get_model(request: Request, model: Model) -> ModelDocument:
    """One model, with the metrics of each version."""
    services = services_of(request.scope)
    summary = await _summary(services, model)
    details = await asyncio.to_thread(_details, services.registry, model, summary.versions)
    return ModelDocument(**summary.model_dump(), details=details)


@router.get(
    "/{model}/versions/{version}",
    summary="Show a version of a model",
    responses={
        **answer("The version.", version=VERSION),
        **problems(
            "invalid_name",
            "model_not_found",
            "version_not_found",
            "version_refused",
            "validation_failed",
            "storage_failed",
        ),
    },
)
@requires("predict", "train")
async def get_version(request: Request, model: Model, version: Version) -> VersionDocument:
    """One version: its manifest, its evaluation on the held-out test split, and links to the pictures of it."""
    services = services_of(request.scope)
    document = await asyncio.to_thread(_version, services.registry, model, version)
    status = _status(services, model)
    if status is None or status.serving != version:
        return document
    return document.model_copy(update={"serving": True, "tuning": EngineTuning.of(status.tuning)})


@router.get(
    "/{model}/versions/{version}/evaluation/{file:path}",
    summary="Fetch a file of an evaluation",
    response_class=FileResponse,
    responses={
        200: {
            "description": "The file, as it was stored with the version.",
            "content": {
                "image/svg+xml": {},
                "image/png": {},
                "application/json": {"example": VERSION["evaluation"]},
                "text/html": {},
            },
        },
        **problems("invalid_name", "model_not_found", "version_not_found", "not_found", "validation_failed"),
    },
)
@requires("predict", "train")
async def get_evaluation_file(
    request: Request,
    model: Model,
    version: Version,
    file: Annotated[
        str,
        PathParameter(
            description="A name out of the version's `links`.", examples=["confusion_matrix.svg", "mistakes/00.png"]
        ),
    ],
) -> FileResponse:
    """A picture or table of a version's evaluation."""
    registry = services_of(request.scope).registry
    path = await asyncio.to_thread(_evaluation_file, registry, model, version, file)
    media_type = _TYPES.get(path.suffix)
    return FileResponse(
        path,
        headers=SANDBOX,
        media_type=media_type or "application/octet-stream",
        filename=None if media_type else path.name,
    )


@router.get(
    "/{model}/promotions",
    summary="List a model's promotions",
    responses={
        **answer("The log.", promotions=PROMOTIONS),
        **problems("invalid_name", "model_not_found", "storage_failed"),
    },
)
@requires("predict", "train")
async def list_promotions(request: Request, model: Model) -> PromotionList:
    """The model's promotion log: who made which version production, when and why, and what was not let through."""
    registry = services_of(request.scope).registry

    def read() -> PromotionList:
        return PromotionList(model=model, promotions=registry.promotions(model), refusals=registry.refusals(model))

    return await asyncio.to_thread(read)


@router.post(
    "/{model}/promote",
    summary="Promote a version",
    responses={
        **answer("The entry of the log that says so.", promoted=PROMOTED),
        **problems(
            "invalid_name",
            "model_not_found",
            "version_not_found",
            "version_refused",
            "validation_failed",
            "not_ready",
            "storage_failed",
        ),
    },
)
@requires("admin")
async def promote(
    request: Request, model: Model, body: Annotated[PromoteRequest, Body(openapi_examples=PROMOTE)]
) -> PromotionEntry:
    """Make a version production. It is loaded and checked first, and goes live without a dropped request.

    When the answer comes, this process answers with it; others follow within `FOVEA_POLL_INTERVAL`.
    """
    services = services_of(request.scope)
    check_name(model, "model")
    await services.classifier.check(model, body.version)
    entry = await asyncio.to_thread(
        services.registry.promote, model, body.version, by=caller(request.scope), reason=body.reason
    )
    await services.classifier.refresh(model)
    return PromotionEntry(model=model, **entry.model_dump())


@router.post(
    "/{model}/rollback",
    summary="Roll back to the version before",
    responses={
        **answer("The entry of the log that says so.", rolled_back=ROLLED_BACK),
        **problems(
            "invalid_name",
            "model_not_found",
            "version_refused",
            "conflict",
            "validation_failed",
            "not_ready",
            "storage_failed",
        ),
    },
)
@requires("admin")
async def rollback(
    request: Request, model: Model, body: Annotated[RollbackRequest | None, Body(openapi_examples=ROLLBACK)] = None
) -> PromotionEntry:
    """Make that version production which was so before the present one. It is loaded and checked first.

    Twice goes two back; to undo a rollback, promote.
    """
    services = services_of(request.scope)
    previous = await asyncio.to_thread(services.registry.previous, model)
    await services.classifier.check(model, previous)
    entry = await asyncio.to_thread(
        services.registry.rollback,
        model,
        by=caller(request.scope),
        reason=body.reason if body else "",
        to=previous,
    )
    await services.classifier.refresh(model)
    return PromotionEntry(model=model, **entry.model_dump())


async def _summary(services: Services, model: str) -> ModelSummary:
    versions, production = await asyncio.to_thread(_listing, services.registry, model)
    status = _status(services, model)
    return ModelSummary(
        name=model,
        versions=versions,
        production=production,
        serving=status.serving if status else None,
        runtime=status.runtime if status else None,
        tuning=EngineTuning.of(status.tuning if status else None),
        # A model that was registered a moment ago is not in the classifier's eyes yet.
        state=status.state if status else "loading" if production else "unpromoted",
        ready=status is not None and status.state in ("ready", "degraded"),
        reason=status.reason if status else None,
        warnings=list(status.warnings) if status else [],
    )


def _status(services: Services, model: str) -> ModelStatus | None:
    return next((status for status in services.classifier.status().models if status.model == model), None)


def _listing(registry: Registry, model: str) -> tuple[list[int], int | None]:
    versions = registry.versions(model)
    entry = registry.production(model)
    return versions, entry.version if entry else None


def _details(registry: Registry, model: str, versions: list[int]) -> list[VersionSummary]:
    details = []
    for version in reversed(versions):
        try:
            manifest = registry.manifest(model, version)
        except VersionRefused as error:
            details.append(VersionSummary(version=version, problem=str(error)))
        else:
            details.append(
                VersionSummary(
                    version=version,
                    created_at=manifest.created_at,
                    created_by=manifest.created_by,
                    metrics=manifest.metrics,
                )
            )
    return details


def _version(registry: Registry, model: str, version: int) -> VersionDocument:
    manifest = registry.manifest(model, version)
    entry = registry.production(model)
    files = _evaluation_files(manifest.files)
    report: dict[str, Any] | None = None
    if _REPORT in files:
        try:
            loaded = json.loads((registry.folder(model, version) / EVALUATION / _REPORT).read_bytes())
        except (OSError, ValueError):
            loaded = None  # tampered with; the classifier refuses such a version, and says so
        report = loaded if isinstance(loaded, dict) else None
    return VersionDocument(
        model=model,
        version=version,
        production=entry is not None and entry.version == version,
        serving=False,
        manifest=manifest,
        evaluation=report,
        links={name: f"/api/v1/models/{model}/versions/{version}/evaluation/{quote(name)}" for name in files},
    )


def _evaluation_file(registry: Registry, model: str, version: int, name: str) -> Path:
    """The file of that name in a version's evaluation.

    Raises:
        InvalidName, ModelNotFound, VersionNotFound, VersionRefused.
        NotFound: the manifest does not list it, or it is not there.
    """
    files = _evaluation_files(registry.manifest(model, version).files)
    folder = registry.folder(model, version) / EVALUATION
    path = folder / name
    # Only what the manifest lists can be named; should that have been tampered with, no path leads out all the same.
    if name not in files or not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        shown = ", ".join(files[:_MOST_NAMED]) or "none"
        more = f" and {len(files) - _MOST_NAMED} more" if len(files) > _MOST_NAMED else ""
        raise NotFound(f"Version {version} of {model} has no such evaluation file. There is: {shown}{more}.")
    return path


def _evaluation_files(files: dict[str, str]) -> list[str]:
    """Paths of the files in evaluation/, relative to it: `report.json`, `mistakes/00.png`."""
    prefix = f"{EVALUATION}/"
    return sorted(name.removeprefix(prefix) for name in files if name.startswith(prefix))
