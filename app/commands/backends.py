"""Where `fovea train` has its jobs run: by a server, or by this process on the workspace."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from app.commands.datasets import add_local
from app.commands.environment import open_datasets
from app.jobs.document import JobDocument, JobList
from app.jobs.folder import Progress
from app.jobs.gate import check_submission
from app.jobs.jobs import Jobs
from app.jobs.spec import TrainingSpec
from app.jobs.trials import SearchDocument

if TYPE_CHECKING:
    from app.settings import Settings
    from app.store.dataset_report import DatasetReport

_POLL = 0.3


@dataclass(frozen=True)
class News:
    """A job as it is now, and what it has said since the last news of it."""

    document: JobDocument
    lines: Sequence[tuple[int, Progress]] = ()
    """Lines of progress in order, each with its number, from 1."""


class Backend(Protocol):
    """Runs training jobs."""

    def datasets(self) -> list[str]:
        """Names of the datasets that there are."""
        ...

    def add(self, path: Path, name: str) -> DatasetReport:
        """Add the folder or archive at `path` as a dataset; returns what is in it."""
        ...

    def submit(self, spec: TrainingSpec) -> JobDocument:
        """Queue a job."""
        ...

    def where(self) -> str:
        """Whose jobs these are, for a sentence: `at …` or `in …`."""
        ...

    def jobs(self) -> JobList:
        """The jobs, the newest first."""
        ...

    def log(self, job_id: str, lines: int | None) -> str:
        """The end of the job's log, or its last `lines`."""
        ...

    def follow(self, job_id: str) -> Iterator[News]:
        """The job each time that something happened, from its first line of progress to its last."""
        ...

    def trials(self, job_id: str) -> SearchDocument:
        """What the job's search has tried."""
        ...

    def cancel(self, job_id: str) -> JobDocument:
        """Ask the job to stop; returns what it is then: cancelled, or still about to be."""
        ...

    def report(self, model: str, version: int) -> str:
        """Where the evaluation of a version is."""
        ...

    def comeback(self, job_id: str) -> str:
        """What to type to follow the job again."""
        ...

    def promotion(self, model: str, version: int) -> str:
        """What to type to make a version production."""
        ...


class Local:
    """This process queues the job in the workspace and sees that it runs; no server is needed.

    Where a server runs on the same workspace, that one runs the job.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._jobs = Jobs(settings.workspace / "jobs")
        self._running = ExitStack()

    def __enter__(self) -> Self:
        from app.jobs.executors.choice import make_executor
        from app.jobs.supervisor import Supervisor

        self._supervisor = Supervisor(self._jobs, make_executor(self._settings))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._running.close()

    def datasets(self) -> list[str]:
        """Names of the datasets of the workspace."""
        return [report.name for report in open_datasets(self._settings).list()]

    def add(self, path: Path, name: str) -> DatasetReport:
        """Add to the workspace."""
        return add_local(self._settings, path, name)

    def submit(self, spec: TrainingSpec) -> JobDocument:
        """Queue in the workspace, and begin to work on what is queued there.

        Raises:
            DatasetNotFound, InvalidDataset, InvalidSpec: no training can come of it; nothing is queued.
            StorageFailed.
        """
        report = open_datasets(self._settings).report(spec.dataset)
        check_submission(spec, report, self._settings.workspace)
        job = self._jobs.submit(spec)
        self._running.enter_context(self._supervisor.running())
        return JobDocument.of(job)

    def where(self) -> str:
        """The workspace."""
        return f"in {self._settings.workspace.absolute()} (FOVEA_WORKSPACE)"

    def jobs(self) -> JobList:
        """The jobs of the workspace, the newest first."""
        return self._jobs.documents()

    def log(self, job_id: str, lines: int | None) -> str:
        """The end of the job's log."""
        return self._jobs.log(job_id, lines=lines)

    def follow(self, job_id: str) -> Iterator[News]:
        """Look at the job's folder, again and again."""
        job, seen = self._jobs.get(job_id), 0
        while True:
            # The document first: if it says that the job has ended, the lines after it are all there are.
            document = self._jobs.document(job_id)
            lines = job.progress_after(seen)
            yield News(document, lines)
            seen = lines[-1][0] if lines else seen
            if document.final:
                return
            time.sleep(_POLL)

    def trials(self, job_id: str) -> SearchDocument:
        """What stands in the job's folder."""
        return SearchDocument.of(self._jobs.get(job_id))

    def cancel(self, job_id: str) -> JobDocument:
        """Set the job's marker, or end it where no trainer has taken it."""
        return JobDocument.of(self._jobs.cancel(job_id))

    def report(self, model: str, version: int) -> str:
        """The page of the evaluation."""
        return str(self._settings.model_store / model / str(version) / "evaluation" / "report.html")

    def comeback(self, job_id: str) -> str:
        """The command of the workspace."""
        return f"fovea jobs follow {job_id} --local"

    def promotion(self, model: str, version: int) -> str:
        """The command of the local store."""
        return f"fovea models promote {model} {version}"


def open_backend(
    settings: Settings, *, local: bool, server: str | None, key: str | None
) -> AbstractContextManager[Backend]:
    """The workspace for `local`, else the server, by default the one of this machine."""
    if local:
        return Local(settings)
    from app.commands.remote import Remote

    own = f"http://127.0.0.1:{settings.port}"
    store = settings.model_store if server in (None, own) else None
    return Remote(server or own, key, store=store, of_settings=server is None)
