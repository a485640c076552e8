"""A running server as the one that runs training jobs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from pydantic import ValidationError

from app import client
from app.commands.backends import News
from app.commands.environment import Unreachable
from app.errors import DatasetNotFound, FoveaError, InvalidRequest, JobNotFound
from app.jobs.document import JobDocument, JobList
from app.jobs.folder import Progress
from app.jobs.spec import TrainingSpec
from app.jobs.trials import SearchDocument
from app.store.dataset_report import DatasetReport

_TIMEOUT = 30.0
# A server that is restarted is back within this time, in seconds; the job goes on meanwhile.
_PATIENCE = 60.0
# What is wrong with what was sent, by status; it is input here, too (`app.commands.environment.exit_status`).
INPUT = (400, 404, 413, 415, 422)
_NOT_FOUND = (DatasetNotFound.code, JobNotFound.code)


class Refused(FoveaError):
    """The server refused; the message is its own."""

    code = "refused"


class Remote:
    """A running server does it all."""

    def __init__(self, url: str, key: str | None, *, store: Path | None = None, of_settings: bool = False) -> None:
        """Nothing is sent yet.

        Args:
            url: the server's address, without a path.
            key: API key for it.
            store: a model store that may be the server's too.
            of_settings: whether the port of `url` is that of the settings, which an error then says.
        """
        self._store = store
        self._of_settings = of_settings
        self._url = url.rstrip("/")
        try:
            # Who types a command wants to know at once that nothing answers.
            self._client = client.Client(url, key=key, timeout=_TIMEOUT, retries=client.Retries(attempts=1))
        except ValueError as error:
            raise InvalidRequest(f"--server {error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def datasets(self) -> list[str]:
        """Names of the server's datasets."""
        with self._asking():
            return [dataset.name for dataset in self._client.datasets.list()]

    def add(self, path: Path, name: str) -> DatasetReport:
        """Upload."""
        with self._asking():
            try:
                report = self._client.datasets.upload(path, name, progress=True)
            except (FileNotFoundError, ValueError) as error:
                raise InvalidRequest(str(error)) from error
        return DatasetReport.model_validate(report.model_dump(exclude_unset=True))

    def submit(self, spec: TrainingSpec) -> JobDocument:
        """Queue on the server."""
        with self._asking():
            return _document(self._client.jobs.submit(**spec.model_dump(mode="json", exclude_unset=True)))

    def where(self) -> str:
        """The address."""
        return f"at {self._url}"

    def jobs(self) -> JobList:
        """The server's jobs, the newest first."""
        with self._asking():
            return JobList.model_validate(self._client.call("GET", "training-jobs"))

    def log(self, job_id: str, lines: int | None) -> str:
        """The end of the job's log."""
        with self._asking():
            return self._client.jobs.log(job_id, lines=lines)

    def follow(self, job_id: str) -> Iterator[News]:
        """Listen to the job's server-sent events; a server that goes away is waited for.

        Raises:
            Unreachable: it did not come back.
        """
        with self._asking():
            yield News(_document(self._client.jobs.get(job_id)))
            lines: list[tuple[int, Progress]] = []
            number, begun = 0, False
            for event in self._client.jobs.events(job_id, patience=_PATIENCE):
                if isinstance(event, client.Progress):
                    number += 1
                    lines += _line(number, event)
                else:
                    # What has happened so far comes first and in one go, up to the state that it led to.
                    begun = True
                if begun:
                    yield News(_document(self._client.jobs.get(job_id)), lines)
                    lines = []

    def trials(self, job_id: str) -> SearchDocument:
        """Ask the server."""
        with self._asking():
            return SearchDocument.model_validate(self._client.call("GET", f"training-jobs/{job_id}/trials"))

    def cancel(self, job_id: str) -> JobDocument:
        """Ask the server."""
        with self._asking():
            return _document(self._client.jobs.cancel(job_id))

    def report(self, model: str, version: int) -> str:
        """The page of the evaluation."""
        return f"{self._url}/api/v1/models/{model}/versions/{version}/evaluation/report.html"

    def comeback(self, job_id: str) -> str:
        """The command for this server."""
        return f"fovea jobs follow {job_id} --server {self._url}"

    def promotion(self, model: str, version: int) -> str:
        """The command where the version is seen to be in this command's store; else a request."""
        if self._store is not None and (self._store / model / str(version)).is_dir():
            return f"fovea models promote {model} {version}"
        body = f"""-H 'Content-Type: application/json' -d '{{"version": {version}}}'"""
        return f"curl -X POST {self._url}/api/v1/models/{model}/promote {body}"

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """The client's errors as those of commands, the server's own words kept."""
        try:
            yield
        except client.Unreachable as error:
            origin = " (the port is that of FOVEA_PORT, or 8000)" if self._of_settings else ""
            raise Unreachable(
                f"No Fovea server answers at {self._url}{origin}: {error.why}. Start one with `fovea serve`, name "
                "another with --server, or train without one with --local."
            ) from error
        except client.Problem as error:
            detail = error.detail
            if error.code in _NOT_FOUND:
                detail += f" Asked the server {self.where()}; --local looks in the workspace here (FOVEA_WORKSPACE)."
            raise (InvalidRequest if error.status in INPUT else Refused)(detail) from error


def _document(job: client.Job) -> JobDocument:
    """The client keeps all fields that the server sends; here they are checked against those of this release."""
    return JobDocument.model_validate(job.model_dump(exclude_unset=True))


def _line(number: int, progress: client.Progress) -> list[tuple[int, Progress]]:
    """A line of progress with its number; none if it is of another release."""
    with suppress(ValidationError):
        return [(number, Progress.model_validate(progress.model_dump(exclude_unset=True)))]
    return []
