"""`AsyncClient`: the service from code on asyncio. Each method is as that of `Client`, where it is explained."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, aclosing, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from app.client import calls
from app.client.answers import Explanation, Prediction, Result
from app.client.awaiting import AsyncConnection
from app.client.bulk import Question, check_arguments, grouped
from app.client.documents import Dataset, DatasetSummary, Job, JobResult, Model, Promotion, Version, VersionSummary
from app.client.events import Event, Following
from app.client.exchange import Retries, Upload
from app.client.images import encoded, image_files, name_of
from app.client.showing import archived, bar

if TYPE_CHECKING:
    from app.client.images import Image

T = TypeVar("T")


class AsyncClient:
    """A Fovea server. Any number of threads may use one client; it keeps connections open until it is closed.

    Every call may raise `Problem` (the server refuses; see its subclasses) or `Unreachable`.
    """

    def __init__(
        self,
        server: str = "http://127.0.0.1:8000",
        *,
        key: str | None = None,
        timeout: float = 60.0,
        retries: Retries = Retries(),  # noqa: B008 - frozen
    ) -> None:
        """Nothing is sent yet."""
        self._connection = AsyncConnection(server, key, timeout, retries)
        self.models = AsyncModels(self._connection)
        self.datasets = AsyncDatasets(self._connection)
        self.jobs = AsyncJobs(self._connection)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    async def predict(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: calls.VersionName = "production",
        top_k: int = 5,
        timeout: float | None = None,
    ) -> Prediction:
        """Classify an image."""
        names = [name_of(image, "image")]
        data = await asyncio.to_thread(encoded, image)
        results = await self._connection.do(calls.predict([data], names, model, version, top_k), timeout)
        assert isinstance(results[0], Prediction)
        return results[0]

    def predict_many(
        self,
        images: Iterable[Image],
        *,
        model: str | None = None,
        version: calls.VersionName = "production",
        top_k: int = 5,
        batch: int = 16,
        concurrency: int = 4,
        progress: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Classify any number of images; the results come in their order, as they are ready."""
        check_arguments(images, batch, concurrency)
        question = Question(model, version, top_k)
        results = self._connection.many(grouped(images, batch), question, concurrency, timeout)
        return _counted(results, len(images) if isinstance(images, Sized) else None, progress)

    def predict_folder(
        self,
        folder: str | os.PathLike[str],
        *,
        model: str | None = None,
        version: calls.VersionName = "production",
        top_k: int = 5,
        batch: int = 16,
        concurrency: int = 4,
        progress: bool = False,
        timeout: float | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Classify the images in a folder and those below it, in the order of their paths, as `predict_many`."""
        return self.predict_many(
            list(image_files(Path(folder))),
            model=model,
            version=version,
            top_k=top_k,
            batch=batch,
            concurrency=concurrency,
            progress=progress,
            timeout=timeout,
        )

    async def explain(
        self,
        image: Image,
        model: str,
        *,
        version: calls.VersionName = "production",
        method: Literal["gradcam", "activations"] = "gradcam",
        layer: str | None = None,
        label: str | None = None,
        timeout: float | None = None,
    ) -> Explanation:
        """A picture of what speaks for a class in an image (`gradcam`), or of a layer's maps (`activations`)."""
        data = await asyncio.to_thread(encoded, image)
        return await self._connection.do(calls.explain(data, model, version, method, layer, label), timeout)

    async def call(
        self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, json: Any = None
    ) -> Any:
        """Any other route of the API that answers with JSON, by its path below /api/v1/."""
        return await self._connection.do(calls.anything(method, path, params, json))


class AsyncModels:
    """The models of the server."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Sequence[Model]:
        """All of them."""
        return await self._connection.do(calls.models())

    async def get(self, name: str) -> Model:
        """One, with its versions in `details`."""
        return await self._connection.do(calls.model(name))

    async def versions(self, name: str) -> Sequence[VersionSummary]:
        """The versions of a model, the newest first."""
        return (await self.get(name)).details

    async def version(self, name: str, number: int) -> Version:
        """One version, with its manifest and evaluation."""
        return await self._connection.do(calls.version(name, number))

    async def promotions(self, name: str) -> Sequence[Promotion]:
        """Who made which version production, when and why; the oldest first."""
        return await self._connection.do(calls.promotions(name))

    async def promote(self, name: str, number: int, *, reason: str = "") -> Promotion:
        """Make a version production. When this returns, it answers."""
        return await self._connection.do(calls.promote(name, number, reason))

    async def rollback(self, name: str, *, reason: str = "") -> Promotion:
        """Make that version production which was so before the present one."""
        return await self._connection.do(calls.rollback(name, reason))


class AsyncDatasets:
    """The datasets of the server."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def list(self) -> Sequence[DatasetSummary]:
        """All of them, the built-in ones last."""
        return await self._connection.do(calls.datasets())

    async def get(self, name: str) -> Dataset:
        """What is in one, what was left out, and what is odd about it."""
        return await self._connection.do(calls.dataset(name))

    async def upload(
        self, path: str | os.PathLike[str], name: str, *, progress: bool = False, timeout: float = math.inf
    ) -> Dataset:
        """Add a dataset, and wait until the server has looked at every image; returns its report."""
        async with _elsewhere(archived(Path(path), progress)) as archive:
            with bar(progress, "Uploading", "bytes", then="Checking on the server") as sent:
                return await self._connection.do(calls.upload(name, Upload(archive, sent)), timeout)

    async def wait(self, name: str, *, timeout: float = math.inf) -> Dataset:
        """Wait until a dataset is there that is being uploaded elsewhere, or whose upload lost its connection."""
        return await self._connection.wait(calls.dataset_checked(name, timeout))


class AsyncJobs:
    """The training jobs of the server."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def submit(self, dataset: str, **spec: Any) -> Job:
        """Train the next version of a model. Fields of `spec` are those of the API; none is required."""
        return await self._connection.do(calls.submit({"dataset": dataset, **spec}))

    async def list(self, *, limit: int = 100) -> Sequence[Job]:
        """The jobs, the newest first; without their epochs."""
        return await self._connection.do(calls.jobs(limit))

    async def get(self, job_id: str) -> Job:
        """One job, as it is now."""
        return await self._connection.do(calls.job(job_id))

    async def log(self, job_id: str, *, lines: int | None = None) -> str:
        """The end of the trainer's output, or its last `lines`."""
        return await self._connection.do(calls.log(job_id, lines))

    async def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. Raises Conflict when it is too late for that."""
        return await self._connection.do(calls.cancel(job_id))

    async def events(self, job_id: str, *, patience: float = 60.0) -> AsyncGenerator[Event, None]:
        """What happens to a job, until it has ended."""

        async def look(event: Event | None) -> Event | None:
            return event

        async with aclosing(self._connection.listen(Following(job_id, patience), look)) as events:
            async for event in events:
                if event is not None:
                    yield event

    async def follow(self, job_id: str, *, patience: float = 60.0) -> AsyncGenerator[Job, None]:
        """The whole job each time that something happened, until it has ended."""

        async def look(_event: Event | None) -> Job:
            return await self.get(job_id)

        job = await self.get(job_id)
        yield job
        if job.final:
            return
        async with aclosing(self._connection.listen(Following(job_id, patience), look)) as jobs:
            async for job in jobs:
                yield job
                if job.final:
                    return
        # The end was heard of, but the job could not be asked for just then.
        yield await self.get(job_id)

    async def wait(self, job_id: str, *, timeout: float = math.inf) -> Job:
        """Wait until a job has ended, however it did."""
        return await self._connection.wait(calls.job_ended(job_id, timeout))

    async def result(self, job_id: str, *, timeout: float = math.inf) -> JobResult:
        """Wait until a job has ended; returns its version and metrics."""
        return calls.result_of(await self.wait(job_id, timeout=timeout))


async def _counted(
    results: AsyncGenerator[Result, None], total: int | None, progress: bool
) -> AsyncGenerator[Result, None]:
    with bar(progress, "Classifying", "files") as count:
        async with aclosing(results):
            done = 0
            async for result in results:
                done += 1
                count(done, total)
                yield result


@asynccontextmanager
async def _elsewhere(block: AbstractContextManager[T]) -> AsyncIterator[T]:
    """A context whose begin and end take long, in a thread."""
    value = await asyncio.to_thread(block.__enter__)
    try:
        yield value
    finally:
        await asyncio.to_thread(block.__exit__, None, None, None)
