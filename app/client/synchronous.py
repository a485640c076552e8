"""`Client`: the service from ordinary code."""

from __future__ import annotations

import math
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from app.client import calls
from app.client.answers import Explanation, Prediction, Result
from app.client.blocking import Connection
from app.client.bulk import Question, check_arguments, grouped
from app.client.documents import Dataset, DatasetSummary, Job, JobResult, Model, Promotion, Version, VersionSummary
from app.client.events import Event, Following
from app.client.exchange import Retries, Upload
from app.client.images import encoded, image_files, name_of
from app.client.showing import archived, bar

if TYPE_CHECKING:
    from app.client.images import Image


class Client:
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
        """Nothing is sent yet.

        Args:
            server: its address, without a path of the API.
            key: an API key, where the server has keys.
            timeout: seconds for a call with all its attempts; predictions may be given others.
            retries: how often a call is repeated that had no answer, or was turned away for the moment.

        Raises:
            ValueError: `server` is no address, or `key` no key.
        """
        self._connection = Connection(server, key, timeout, retries)
        self.models = Models(self._connection)
        self.datasets = Datasets(self._connection)
        self.jobs = Jobs(self._connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def predict(
        self,
        image: Image,
        *,
        model: str | None = None,
        version: calls.VersionName = "production",
        top_k: int = 5,
        timeout: float | None = None,
    ) -> Prediction:
        """Classify an image.

        Args:
            image: a file's path, encoded bytes, a NumPy array (uint8 [height, width] or [height, width, channels]), or
                an image of Pillow's.
            model: which one; None where only one has a version in production.
            version: its number, or the one in production.
            top_k: classes to list; 0 for all.
            timeout: seconds for the call, instead of the client's. The server is told, and gives up in time.

        Raises:
            OSError: the file cannot be read.
            ValueError: the array or Pillow's image cannot be sent, or there are no bytes.
        """
        names = [name_of(image, "image")]
        result = self._connection.do(calls.predict([encoded(image)], names, model, version, top_k), timeout)[0]
        assert isinstance(result, Prediction)
        return result

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
    ) -> Iterator[Result]:
        """Classify any number of images; the results come in their order, as they are ready.

        An image that cannot be read or classified is a `Failure` in its place (`result.ok` is False). What is no
        image's fault is raised. `images` is read as results are taken, so it may be endless.

        Args:
            images: as `predict` takes them.
            model: as there; so are `version`, `top_k` and `timeout`, which is for each request.
            batch: most images in one request.
            concurrency: most requests at a time.
            progress: show a bar on the terminal; it takes the package rich.
        """
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
    ) -> Iterator[Result]:
        """Classify the images in a folder and those below it, in the order of their paths, as `predict_many`.

        Raises:
            NotADirectoryError: there is no such folder.
        """
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

    def explain(
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
        return self._connection.do(calls.explain(encoded(image), model, version, method, layer, label), timeout)

    def call(self, method: str, path: str, *, params: Mapping[str, str | int] | None = None, json: Any = None) -> Any:
        """Any other route of the API that answers with JSON, by its path below /api/v1/."""
        return self._connection.do(calls.anything(method, path, params, json))


class Models:
    """The models of the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Sequence[Model]:
        """All of them."""
        return self._connection.do(calls.models())

    def get(self, name: str) -> Model:
        """One, with its versions in `details`."""
        return self._connection.do(calls.model(name))

    def versions(self, name: str) -> Sequence[VersionSummary]:
        """The versions of a model, the newest first."""
        return self.get(name).details

    def version(self, name: str, number: int) -> Version:
        """One version, with its manifest and evaluation."""
        return self._connection.do(calls.version(name, number))

    def promotions(self, name: str) -> Sequence[Promotion]:
        """Who made which version production, when and why; the oldest first."""
        return self._connection.do(calls.promotions(name))

    def promote(self, name: str, number: int, *, reason: str = "") -> Promotion:
        """Make a version production. When this returns, it answers."""
        return self._connection.do(calls.promote(name, number, reason))

    def rollback(self, name: str, *, reason: str = "") -> Promotion:
        """Make that version production which was so before the present one."""
        return self._connection.do(calls.rollback(name, reason))


class Datasets:
    """The datasets of the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self) -> Sequence[DatasetSummary]:
        """All of them, the built-in ones last."""
        return self._connection.do(calls.datasets())

    def get(self, name: str) -> Dataset:
        """What is in one, what was left out, and what is odd about it."""
        return self._connection.do(calls.dataset(name))

    def upload(
        self, path: str | os.PathLike[str], name: str, *, progress: bool = False, timeout: float = math.inf
    ) -> Dataset:
        """Add a dataset, and wait until the server has looked at every image; returns its report.

        Args:
            path: a folder with one sub-folder a class, or with a labels.csv; or an archive of that (zip, tar, tar.gz).
            name: a new name.
            progress: show a bar on the terminal; it takes the package rich.
            timeout: seconds for all of it.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: the folder is empty.
            Conflict: the name is taken.
        """
        with (
            archived(Path(path), progress) as archive,
            bar(progress, "Uploading", "bytes", then="Checking on the server") as sent,
        ):
            return self._connection.do(calls.upload(name, Upload(archive, sent)), timeout)

    def wait(self, name: str, *, timeout: float = math.inf) -> Dataset:
        """Wait until a dataset is there that is being uploaded elsewhere, or whose upload lost its connection.

        Raises:
            TimeoutError: it was not, after `timeout` seconds.
        """
        return self._connection.wait(calls.dataset_checked(name, timeout))


class Jobs:
    """The training jobs of the server."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def submit(self, dataset: str, **spec: Any) -> Job:
        """Train the next version of a model. Fields of `spec` are those of the API; none is required."""
        return self._connection.do(calls.submit({"dataset": dataset, **spec}))

    def list(self, *, limit: int = 100) -> Sequence[Job]:
        """The jobs, the newest first; without their epochs."""
        return self._connection.do(calls.jobs(limit))

    def get(self, job_id: str) -> Job:
        """One job, as it is now."""
        return self._connection.do(calls.job(job_id))

    def log(self, job_id: str, *, lines: int | None = None) -> str:
        """The end of the trainer's output, or its last `lines`."""
        return self._connection.do(calls.log(job_id, lines))

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop. Raises Conflict when it is too late for that."""
        return self._connection.do(calls.cancel(job_id))

    def events(self, job_id: str, *, patience: float = 60.0) -> Iterator[Event]:
        """What happens to a job, from its begin, until it has ended: `Progress`, and `JobState` where that changes.

        A connection that breaks is made again; a server that has gone away is waited for `patience` seconds.
        """
        events = self._connection.listen(Following(job_id, patience), lambda event: event)
        return (event for event in events if event is not None)

    def follow(self, job_id: str, *, patience: float = 60.0) -> Iterator[Job]:
        """The whole job each time that something happened, until it has ended; as `events`, but easier to show."""
        job = self.get(job_id)
        yield job
        if not job.final:
            for job in self._connection.listen(Following(job_id, patience), lambda _: self.get(job_id)):
                yield job
                if job.final:
                    return
            # The end was heard of, but the job could not be asked for just then.
            yield self.get(job_id)

    def wait(self, job_id: str, *, timeout: float = math.inf) -> Job:
        """Wait until a job has ended, however it did.

        Raises:
            TimeoutError: it had not, after `timeout` seconds; it goes on.
        """
        return self._connection.wait(calls.job_ended(job_id, timeout))

    def result(self, job_id: str, *, timeout: float = math.inf) -> JobResult:
        """Wait until a job has ended; returns its version and metrics.

        Raises:
            JobFailed: it did not succeed.
            TimeoutError: it had not ended after `timeout` seconds; it goes on.
        """
        return calls.result_of(self.wait(job_id, timeout=timeout))


def _counted(results: Generator[Result, None, None], total: int | None, progress: bool) -> Iterator[Result]:
    with closing(results), bar(progress, "Classifying", "files") as count:
        for done, result in enumerate(results, start=1):
            count(done, total)
            yield result
