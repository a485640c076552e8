"""The training jobs of a workspace: submit, list, cancel, and what they look like from outside."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import get_args

from app.errors import Conflict, InvalidName, JobNotFound, StorageFailed
from app.jobs.document import JobDocument, JobList, UnreadableJob, readable
from app.jobs.folder import FINAL, JobFolder, JobState, State, now
from app.jobs.spec import TrainingSpec
from app.names import check_name
from app.store.storage import sync_folder

_STAGING = ".new-"
# A submission takes milliseconds; what is older than this was left by a process that died.
_STAGING_AGE = timedelta(hours=1)
# The end of a log is read, never all of it: a long training's log has many megabytes.
_LOG_BYTES = 256 * 1024
# What libraries say of themselves when they begin, before they can be told not to.
_NOISE = re.compile(
    r"I\d{4} \d\d:\d\d:|WARNING: All log messages before absl::InitializeLog|INFO: Created TensorFlow Lite XNNPACK"
)
_MOST_NAMED = 5
_ENDED = {"succeeded": "has succeeded", "failed": "has failed", "cancelled": "was cancelled"}


class Jobs:
    """The jobs below one folder. Any number of processes may use the same folder at a time."""

    def __init__(self, root: Path) -> None:
        """`root` (`workspace/jobs`) is made at the first submission."""
        self.root = root
        self._final: dict[str, JobState] = {}  # a final state never changes, and needs no second look

    def submit(self, spec: TrainingSpec) -> JobFolder:
        """Queue a job. When this returns, the job is on disk and survives a crash.

        Raises:
            StorageFailed: the disk refused; no trace of the job is left.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            while True:
                staged = JobFolder(self.root / f"{_STAGING}{secrets.token_hex(8)}")
                staged.path.mkdir()
                try:
                    submitted_at = now()
                    staged.write_spec(spec)
                    staged.write_state(JobState(submitted_at=submitted_at))
                    target = self.root / _new_id(submitted_at)
                    if not target.exists():
                        staged.path.rename(target)
                        sync_folder(self.root)
                        return JobFolder(target)
                finally:
                    shutil.rmtree(staged.path, ignore_errors=True)
        except OSError as error:
            raise StorageFailed(f"The job could not be stored in {self.root}: {error.strerror or error}.") from error

    def list(self) -> list[JobFolder]:
        """All jobs, the newest first."""
        return [JobFolder(self.root / name) for name in sorted(_ids(self.root), reverse=True)]

    def get(self, job_id: str) -> JobFolder:
        """The job of that id.

        Raises:
            JobNotFound: there is none.
        """
        try:
            path = self.root / check_name(job_id, "job")
        except InvalidName as error:
            raise JobNotFound(self._no_job(job_id)) from error
        if not (path / "state.json").is_file():
            raise JobNotFound(self._no_job(job_id))
        return JobFolder(path)

    def _no_job(self, job_id: str) -> str:
        newest = [job.id for job in self.list()[:_MOST_NAMED]]
        known = f". The newest: {', '.join(newest)}." if newest else ", nor any."
        return f"There is no job {job_id[:80]!r}{known}"

    def document(self, job_id: str) -> JobDocument:
        """What the job `job_id` looks like now.

        Raises:
            JobNotFound: there is none.
            StorageFailed: its files cannot be read; the message says which, and why.
        """
        document = JobDocument.of(self.get(job_id))
        return _with_place(document, self.states()) if document.state == "queued" else document

    def documents(self, limit: int | None = None) -> JobList:
        """What all jobs look like now, or the newest `limit` of them; one that is spoilt does not hide the others."""
        listed = JobList(jobs=[], unreadable=[])
        for job in self.list()[:limit]:
            try:
                listed.jobs.append(JobDocument.of(job))
            except StorageFailed as error:
                if job.path.exists():  # else it was removed just now
                    listed.unreadable.append(UnreadableJob(id=job.id, problem=str(error)))
        if any(document.state == "queued" for document in listed.jobs):
            states = self.states()
            placed = [_with_place(job, states) if job.state == "queued" else job for job in listed.jobs]
            return JobList(jobs=placed, unreadable=listed.unreadable)
        return listed

    def states(self) -> dict[str, JobState]:
        """The state of each job by id, the oldest first. Cheap to call often: finished jobs are read once."""
        states = {}
        for job_id in sorted(_ids(self.root)):
            state = self._final.get(job_id)
            if state is None:
                try:
                    state = JobFolder(self.root / job_id).state()
                except (OSError, ValueError):
                    continue  # removed, spoilt, or not ours to read: it must not hide the others
                if state.state in FINAL:
                    self._final[job_id] = state
            states[job_id] = state
        return states

    def counts(self) -> dict[State, int]:
        """How many jobs are in each state; every state is named."""
        counter = Counter(state.state for state in self.states().values())
        return {state: counter[state] for state in get_args(State)}

    def cancel(self, job_id: str) -> JobFolder:
        """Ask a job to stop: one that no trainer has taken is cancelled at once, a running one within seconds.

        Raises:
            JobNotFound: there is none.
            Conflict: it has ended already, or its version is coming into being.
            StorageFailed: its files cannot be read or written.
        """
        job = self.get(job_id)
        with job.hold() as held:
            state = readable(job, "state.json", job.state)
            if state.state in FINAL:
                raise Conflict(f"Job {job.id} has ended already: it {_ENDED[state.state]}.")
            if job.export_begun:
                raise Conflict(
                    f"It is too late to cancel job {job.id}: its version is being registered. A version that is not "
                    "wanted need not be promoted, and can be rolled back."
                )
            job.request_cancel()
            # Without the lock somebody is at work on it and sees the marker, or the next one who takes it does.
            if held:
                reason = "Cancelled before it began." if state.attempt == 0 else "Cancelled on request."
                job.write_state(state.ended("cancelled", reason))
        return job

    def log(self, job_id: str, *, lines: int | None = None) -> str:
        """The end of a job's log (at most its last 256 KiB): whole lines, the last `lines` of them if given.

        Raises:
            JobNotFound: there is no such job.
        """
        return log_tail(self.get(job_id), lines=lines)

    def clean(self) -> None:
        """Remove what submissions that died half-way have left."""
        oldest = time.time() - _STAGING_AGE.total_seconds()
        for path in self.root.glob(f"{_STAGING}*"):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)


def _with_place(document: JobDocument, states: Mapping[str, JobState]) -> JobDocument:
    """A queued job with how many others have their turn before it: those that have begun, and older ones."""
    ahead = sum(
        state.state == "running" or (state.state == "queued" and job_id < document.id)
        for job_id, state in states.items()
        if job_id != document.id
    )
    return document.model_copy(update={"ahead": ahead})


def log_tail(job: JobFolder, *, lines: int | None = None) -> str:
    """The end of a job's log, in whole lines, without what libraries say of themselves; empty if there is none yet."""
    try:
        with (job.path / "log.txt").open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_BYTES))
            data = file.read(_LOG_BYTES)
    except FileNotFoundError:
        return ""
    if size > _LOG_BYTES:
        data = data.partition(b"\n")[2]
    # "\n" only: a progress bar's carriage returns make no lines.
    text = [line for line in data.decode("utf-8", errors="replace").split("\n") if not _NOISE.match(line)]
    end = len(text) - 1 if text[-1] == "" else len(text)
    start = 0 if lines is None else max(0, end - lines)
    return "".join(f"{line}\n" for line in text[start:end])


def _new_id(at: datetime) -> str:
    """Sorts by time to the microsecond; the random end tells two submissions of the same one apart."""
    return f"{at:%Y%m%d-%H%M%S}-{at.microsecond:05x}{secrets.token_hex(1)}"


def _ids(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return [
                entry.name
                for entry in entries
                if not entry.name.startswith(".") and (Path(entry) / "state.json").is_file()
            ]
    except FileNotFoundError:
        return []
