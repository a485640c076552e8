"""Datasets: upload, list, look."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse

from app.api.bodies import Limits, stream_file
from app.api.examples import DATASETS, REPORT, answer, binary, files
from app.api.guarded import GuardedRoute
from app.api.openapi import problems
from app.api.pools import run_in
from app.api.routes import requires
from app.api.sandbox import SANDBOX
from app.api.schemas import DatasetList
from app.api.security import caller
from app.api.services import services_of
from app.api.uploads import complete, receiving, uploads, write
from app.errors import Conflict, DatasetNotFound
from app.names import check_name
from app.store.dataset_report import DatasetReport
from app.store.datasets import Datasets

router = APIRouter(prefix="/api/v1/datasets", tags=["datasets"], route_class=GuardedRoute)

_ARCHIVE_TYPES = (
    "application/zip",
    "application/x-zip-compressed",
    "application/x-tar",
    "application/gzip",
    "application/x-gzip",
    "application/x-bzip2",
)
_ARCHIVE = {"type": "string", "contentMediaType": "application/octet-stream", "description": "The archive."}
_ADDRESS = "http://127.0.0.1:8000/api/v1/datasets?name=flowers"


def _body(file: str, media_type: str | None = None) -> dict[str, Any]:
    header = f" -H 'Content-Type: {media_type}'" if media_type else ""
    return binary(file, f"curl --data-binary @{file}{header} '{_ADDRESS}'")


@router.post(
    "",
    summary="Upload a dataset",
    status_code=201,
    responses={
        201: {
            **answer("It is a dataset now.", report=REPORT)[200],
            "headers": {"Location": {"description": "Address of the dataset.", "schema": {"type": "string"}}},
        },
        **problems(
            "invalid_request",
            "invalid_name",
            "request_timeout",
            "conflict",
            "payload_too_large",
            "unsupported_media_type",
            "invalid_dataset",
            "validation_failed",
            "storage_failed",
        ),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "description": "A zip, tar or tar.gz with one folder a class, or with a `labels.csv` of `path,label`.",
            "content": {
                "application/octet-stream": {"schema": _ARCHIVE, "examples": _body("flowers.zip")},
                "application/zip": {"schema": _ARCHIVE, "examples": _body("flowers.zip", "application/zip")},
                "application/x-tar": {"schema": _ARCHIVE, "examples": _body("flowers.tar", "application/x-tar")},
                "application/gzip": {"schema": _ARCHIVE, "examples": _body("flowers.tar.gz", "application/gzip")},
                "multipart/form-data": {
                    "schema": {"type": "object", "properties": {"file": _ARCHIVE}},
                    "examples": files(f"curl -F file=@flowers.zip '{_ADDRESS}'", "flowers.zip"),
                },
            },
        }
    },
)
@requires("train")
async def add_dataset(
    request: Request,
    response: Response,
    name: Annotated[str, Query(description="Name of the new dataset.", examples=["flowers"])],
) -> DatasetReport:
    """Upload labelled images: an archive as the body, or as the one file of a `multipart/form-data` body.

    One folder a class, at any common depth, or a `labels.csv` of `path,label`. Every image is
    decoded once; what cannot be used is left out and listed in the answer.
    """
    services = services_of(request.scope)
    await asyncio.to_thread(_check_free, services.datasets, check_name(name, "dataset"))
    limits = Limits(services.settings.max_upload_bytes, services.settings.upload_timeout)
    pools = services.pools
    folder = uploads(services.settings.workspace)
    with receiving(folder) as file:
        await stream_file(
            request.receive,
            request.headers,
            limits,
            lambda chunk: run_in(pools.receiving, write, file, chunk),
            raw_types=_ARCHIVE_TYPES,
        )
        await run_in(pools.receiving, complete, file)
        report = await run_in(pools.checking, services.datasets.add, name, Path(file.name), by=caller(request.scope))
    response.headers["Location"] = f"{router.prefix}/{name}"
    return report


@router.get(
    "",
    summary="List the datasets",
    responses={**answer("The datasets.", datasets=DATASETS), **problems("storage_failed")},
)
@requires("train")
def list_datasets(request: Request) -> DatasetList:
    """All datasets, the built-in ones included; `GET /datasets/{name}` has the full report of one.

    One whose report is damaged has a `problem` in place of counts.
    """
    return DatasetList(datasets=list(services_of(request.scope).datasets.list()))


@router.get(
    "/{name}",
    summary="Show a dataset",
    responses={
        **answer("The report.", report=REPORT),
        **problems("invalid_name", "dataset_not_found", "storage_failed"),
    },
)
@requires("train")
def get_dataset(
    request: Request, name: Annotated[str, PathParameter(description="Name of a dataset.", examples=["digits"])]
) -> DatasetReport:
    """One dataset: classes, counts, sizes, rejected files with reasons, duplicates, look-alikes, label-case twins."""
    return services_of(request.scope).datasets.report(name)


@router.get(
    "/{name}/thumbnails/{file}",
    summary="Fetch a thumbnail of a dataset",
    response_class=FileResponse,
    responses={
        200: {"description": "The picture, at most 96 pixels a side.", "content": {"image/png": {}}},
        **problems("invalid_name", "dataset_not_found", "not_found", "storage_failed"),
    },
)
@requires("train")
def get_thumbnail(
    request: Request,
    name: Annotated[str, PathParameter(description="Name of a dataset.", examples=["flowers"])],
    file: Annotated[str, PathParameter(description="A name out of the dataset's report.", examples=["0001.png"])],
) -> FileResponse:
    """A small picture of an image that the report names: a repeated one, one of extreme size, one of a small class."""
    path = services_of(request.scope).datasets.thumbnail(name, file)
    return FileResponse(path, headers=SANDBOX, media_type="image/png")


def _check_free(datasets: Datasets, name: str) -> None:
    """Raise Conflict for a name that is taken: before hours of upload, not after."""
    with suppress(DatasetNotFound):
        datasets.report(name)
        raise Conflict(f"There is a dataset {name!r} already; datasets are never changed. Choose another name.")
