"""A running server as the one that runs training jobs."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import httpx
from pydantic import ValidationError

from app.commands.archive import packed
from app.commands.backends import News
from app.commands.counting import Count, counting
from app.commands.environment import Unreachable
from app.errors import DatasetNotFound, FoveaError, InvalidRequest, JobNotFound
from app.jobs.document import JobDocument, JobList
from app.jobs.folder import FINAL, Progress
from app.jobs.spec import TrainingSpec
from app.jobs.trials import SearchDocument
from app.store.dataset_report import DatasetReport

_POLL = 0.3
_CHUNK = 2**20
# A server that is restarted is back within this time, in seconds; the job goes on meanwhile.
_PATIENCE = 60.0
# What is wrong with what was sent, by status; it is input here, too (`app.commands.environment.exit_status`).
INPUT = (400, 404, 413, 415, 422)
_NOT_FOUND = (DatasetNotFound.code, JobNotFound.code)
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Refused(FoveaError):
    """The server refused; the message is its own."""

    code = "refused"


@dataclass(frozen=True)
class _Event:
    """A server-sent event; a heartbeat has no `kind`."""

    number: int
    kind: str
    data: str

    @property
    def line(self) -> list[tuple[int, Progress]]:
        """The line of progress that it tells, with its number; none if it is no such, or of another release."""
        with suppress(ValidationError):
            if self.kind == "progress":
                return [(self.number, Progress.model_validate_json(self.data))]
        return []

    @property
    def final(self) -> bool:
        """Whether it tells that the job has ended."""
        return self.kind == "state" and json.loads(self.data)["state"] in FINAL


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
        try:
            address = httpx.URL(url.rstrip("/"))
        except httpx.InvalidURL:
            address = httpx.URL("")
        if address.scheme not in ("http", "https") or not address.host:
            raise InvalidRequest(f"--server {url!r} is not an address like http://127.0.0.1:8000.")
        self._url = str(address)
        self._client = httpx.Client(
            base_url=f"{self._url}/api/v1/",
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(30, connect=5),
            # A proxy of the environment cannot reach this machine's own addresses.
            trust_env=address.host not in _LOOPBACK,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._client.close()

    def datasets(self) -> list[str]:
        """Names of the server's datasets."""
        return [report["name"] for report in self._call("GET", "datasets")["datasets"]]

    def add(self, path: Path, name: str) -> DatasetReport:
        """Upload."""
        with packed(path, None) as archive, archive.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            with counting("Uploading", "bytes", then="Checking on the server") as sent:
                report = self._call(
                    "POST",
                    "datasets",
                    params={"name": name},
                    content=_chunks(file, size, sent),
                    headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)},
                    # When all is sent the server looks at every image before it answers.
                    timeout=httpx.Timeout(None, connect=5),
                )
        return DatasetReport.model_validate(report)

    def submit(self, spec: TrainingSpec) -> JobDocument:
        """Queue on the server."""
        document = self._call("POST", "training-jobs", json=spec.model_dump(mode="json", exclude_unset=True))
        return JobDocument.model_validate(document)

    def where(self) -> str:
        """The address."""
        return f"at {self._url}"

    def jobs(self) -> JobList:
        """The server's jobs, the newest first."""
        return JobList.model_validate(self._call("GET", "training-jobs"))

    def log(self, job_id: str, lines: int | None) -> str:
        """The end of the job's log."""
        with self._reaching():
            response = self._client.get(f"training-jobs/{job_id}/log", params={"tail": lines} if lines else {})
        self._check(response)
        return response.text

    def follow(self, job_id: str) -> Iterator[News]:
        """Listen to the job's server-sent events; a server that goes away is waited for.

        Raises:
            Unreachable: it did not come back.
        """
        yield News(self._document(job_id))
        deadline, seen = time.monotonic() + _PATIENCE, 0
        while True:
            # What has happened so far comes first and in one go, up to the state that it led to.
            lines, begun = list[tuple[int, Progress]](), False
            try:
                for event in self._events(job_id, seen):
                    lines += event.line
                    begun = begun or event.kind == "state"
                    if not begun:
                        continue
                    yield News(self._document(job_id), lines)
                    seen, lines = max(seen, event.number), []
                    if event.final:
                        return
                    deadline = time.monotonic() + _PATIENCE
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
            time.sleep(_POLL)

    def trials(self, job_id: str) -> SearchDocument:
        """Ask the server."""
        return SearchDocument.model_validate(self._call("GET", f"training-jobs/{job_id}/trials"))

    def cancel(self, job_id: str) -> JobDocument:
        """Ask the server."""
        return JobDocument.model_validate(self._call("POST", f"training-jobs/{job_id}/cancel"))

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

    def _document(self, job_id: str) -> JobDocument:
        return JobDocument.model_validate(self._call("GET", f"training-jobs/{job_id}"))

    def _events(self, job_id: str, after: int) -> Iterator[_Event]:
        """The events after number `after`, heartbeats included; ends when the server ends the stream."""
        path, headers = f"training-jobs/{job_id}/events", {"Last-Event-ID": str(after)}
        with self._reaching(), self._client.stream("GET", path, headers=headers) as response:
            if response.is_error:
                response.read()
                self._check(response)
            fields: dict[str, str] = {}
            for line in response.iter_lines():
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    continue
                yield _Event(int(fields.get("id", 0)), fields.get("event", ""), fields.get("data", ""))
                fields = {}

    def _call(self, method: str, path: str, **options: Any) -> Any:
        with self._reaching():
            response = self._client.request(method, path, **options)
        self._check(response)
        return response.json()

    def _check(self, response: httpx.Response) -> None:
        """Raise the server's own words for what it refused."""
        if not response.is_error:
            return
        try:
            problem = response.json()
            detail, code = str(problem["detail"]), problem.get("code")
        except (ValueError, KeyError, TypeError, AttributeError):
            detail = f"The server answered {response.status_code} {response.reason_phrase}; is it a Fovea server?"
            code = None
        if code in _NOT_FOUND:
            detail += f" Asked the server {self.where()}; --local looks in the workspace here (FOVEA_WORKSPACE)."
        raise (InvalidRequest if response.status_code in INPUT else Refused)(detail)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            origin = " (the port is that of FOVEA_PORT, or 8000)" if self._of_settings else ""
            raise Unreachable(
                f"No Fovea server answers at {self._url}{origin}: {error}. Start one with `fovea serve`, name another "
                "with --server, or train without one with --local."
            ) from error


def _chunks(file: IO[bytes], size: int, sent: Count) -> Iterator[bytes]:
    done = 0
    while chunk := file.read(_CHUNK):
        yield chunk
        done += len(chunk)
        sent(done, size)
