"""Training jobs: ask for one, watch it, stop it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from app.api.examples import CANCELLED, JOBS, QUEUED, RUNNING, SPECS, SUCCEEDED, TRIALS, answer
from app.api.guarded import GuardedRoute
from app.api.openapi import problems
from app.api.pools import run_in
from app.api.routes import requires
from app.api.security import has_scope
from app.api.services import Services, services_of
from app.errors import Forbidden
from app.jobs.document import JobDocument, JobList
from app.jobs.folder import JobFolder, Progress
from app.jobs.gate import check_submission
from app.jobs.spec import TrainingSpec
from app.jobs.trials import SearchDocument

router = APIRouter(prefix="/api/v1/training-jobs", tags=["training"], route_class=GuardedRoute)

JobId = Annotated[str, Path(description="Id of a job.", examples=["20261122-163012-0f3c9ab"])]

_POLL_SECONDS = 0.5
# Proxies close connections that are silent for a minute or so.
_HEARTBEAT_SECONDS = 15.0


@router.post(
    "",
    summary="Train the next version of a model",
    status_code=202,
    responses={
        202: {
            **answer("Queued.", queued=QUEUED)[200],
            "headers": {"Location": {"description": "Address of the job.", "schema": {"type": "string"}}},
        },
        **problems(
            "dataset_not_found",
            "invalid_dataset",
            "invalid_spec",
            "validation_failed",
            "payload_too_large",
            "storage_failed",
        ),
    },
)
@requires("train")
async def submit(
    request: Request, response: Response, spec: Annotated[TrainingSpec, Body(openapi_examples=SPECS)]
) -> JobDocument:
    """Train the next version of a model. Only `dataset` is required.

    The job is queued; its document says how it goes. With keys, a `promotion` other than
    `manual` changes what is served, and so needs the scope `admin`.
    """
    services = services_of(request.scope)
    if spec.promotion != "manual" and not has_scope(request.scope, "admin"):
        raise Forbidden(
            f"The promotion policy {spec.promotion!r} may change which version is served, which needs a key with the "
            "scope admin. Allowed with this key: 'manual'."
        )
    report = await asyncio.to_thread(services.datasets.report, spec.dataset)
    await asyncio.to_thread(check_submission, spec, report, services.settings.workspace)
    job = await asyncio.to_thread(services.jobs.submit, spec)
    response.headers["Location"] = f"{router.prefix}/{job.id}"
    return await asyncio.to_thread(services.jobs.document, job.id)


@router.get(
    "", summary="List the training jobs", responses={**answer("The jobs.", jobs=JOBS), **problems("storage_failed")}
)
@requires("train")
def list_jobs(
    request: Request, limit: Annotated[int, Query(ge=1, le=1000, description="How many, the newest first.")] = 100
) -> JobList:
    """The training jobs, the newest first; without the epochs of each."""
    listed = services_of(request.scope).jobs.documents(limit)
    short = [document.model_copy(update={"history": []}) for document in listed.jobs]
    return JobList(jobs=short, unreadable=listed.unreadable)


@router.get(
    "/{job_id}",
    summary="Show a training job",
    responses={
        **answer("The job.", running=RUNNING, succeeded=SUCCEEDED),
        **problems("job_not_found", "storage_failed"),
    },
)
@requires("train")
def get_job(request: Request, job_id: JobId) -> JobDocument:
    """One job: its state, the epochs so far, the time left, and in the end the version and its metrics."""
    return services_of(request.scope).jobs.document(job_id)


@router.get(
    "/{job_id}/trials",
    summary="Show the trials of a job's search",
    responses={**answer("The trials so far.", searching=TRIALS), **problems("job_not_found", "storage_failed")},
)
@requires("train")
def get_trials(request: Request, job_id: JobId) -> SearchDocument:
    """What a job with a `search` has tried: values, scores on the validation split and curves, and the best so far.

    For a job without one, `search` is null and there are no trials.
    """
    return SearchDocument.of(services_of(request.scope).jobs.get(job_id))


@router.post(
    "/{job_id}/cancel",
    summary="Cancel a training job",
    status_code=202,
    responses={
        **answer("Cancelled, or about to be.", 202, cancelled=CANCELLED),
        **problems("job_not_found", "conflict", "storage_failed"),
    },
)
@requires("train")
def cancel(request: Request, job_id: JobId) -> JobDocument:
    """Ask a job to stop. A queued one is cancelled at once, a running one within seconds.

    Once its version is being registered (the phases from `export` on) it is too late, which is a conflict.
    """
    jobs = services_of(request.scope).jobs
    jobs.cancel(job_id)
    return jobs.document(job_id)


@router.get(
    "/{job_id}/log",
    summary="Read a job's output",
    response_class=PlainTextResponse,
    responses={
        200: {
            "description": "The end of the log.",
            "content": {"text/plain": {"example": "Training on 2,751 images.\nEpoch 1 of 30\n"}},
        },
        **problems("job_not_found", "validation_failed"),
    },
)
@requires("train")
def get_log(
    request: Request,
    job_id: JobId,
    tail: Annotated[int | None, Query(ge=1, le=100_000, description="Only the last so many lines.")] = None,
) -> PlainTextResponse:
    """The trainer's output: the last 256 KiB of it, in whole lines."""
    text = services_of(request.scope).jobs.log(job_id, lines=tail)
    return PlainTextResponse(text, headers={"Cache-Control": "no-store"})


@router.get(
    "/{job_id}/events",
    summary="Follow a job's events",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "Server-sent events: `progress` for each line of progress, `state` for each change of "
            "state. Ends with the final state.",
            "content": {
                "text/event-stream": {
                    "example": 'id: 3\nevent: progress\ndata: {"phase": "fit", "epoch": 2, "epochs": 30}\n\n'
                    'id: 9\nevent: state\ndata: {"state": "succeeded"}\n\n'
                }
            },
        },
        **problems("job_not_found", "validation_failed", "storage_failed"),
    },
)
@requires("train")
async def get_events(
    request: Request,
    job_id: JobId,
    last_event_id: Annotated[
        str | None, Header(description="Where an interrupted stream ended; browsers send it by themselves.")
    ] = None,
) -> StreamingResponse:
    """Follow a job as it happens."""
    services = services_of(request.scope)
    job = await asyncio.to_thread(services.jobs.get, job_id)
    await asyncio.to_thread(JobDocument.of, job)  # what cannot be read is told as such, not by a stream that breaks off
    seen = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 10 else 0
    return StreamingResponse(
        _events(services, job, seen),
        media_type="text/event-stream",
        # Proxies that buffer would keep the events until the job is over.
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(services: Services, job: JobFolder, seen: int) -> AsyncIterator[str]:
    state: str | None = None
    last_sent = time.monotonic()
    while not services.lifecycle.stopping:
        document, lines = await run_in(services.pools.following, _look, job, seen)
        for seen, line in lines:
            yield _event(seen, "progress", line.model_dump(mode="json", exclude_none=True))
        if document.state != state:
            state = document.state
            yield _event(seen, "state", document.model_dump(mode="json", exclude={"history", "spec", "ahead"}))
        elif lines:
            pass
        elif time.monotonic() - last_sent >= _HEARTBEAT_SECONDS:
            yield ": still here\n\n"
        else:
            await asyncio.sleep(_POLL_SECONDS)
            continue
        if document.final:
            return
        last_sent = time.monotonic()


def _look(job: JobFolder, seen: int) -> tuple[JobDocument, list[tuple[int, Progress]]]:
    """The job as it is, and the lines of progress after number `seen`, each with its own number."""
    # The document first: if it says that the job has ended, the lines after it are all there are.
    document = JobDocument.of(job)
    return document, job.progress_after(seen)


def _event(number: int, kind: str, data: dict[str, Any]) -> str:
    return f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n"
