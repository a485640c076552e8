"""The training jobs of a workspace: submit, list, cancel, and what they look like from outside."""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Self, get_args

from pydantic import BaseModel, ConfigDict, Field

from app.errors import Conflict, InvalidName, JobNotFound, StorageFailed
from app.jobs.folder import FINAL, JobFolder, JobResult, JobState, Progress, State, now
from app.jobs.spec import TrainingSpec
from app.names import check_name

_STAGING = ".new-"
# A submission takes milliseconds; what is older than this was left by a process that died.
_STAGING_AGE = timedelta(hours=1)
# The end of a log is read, never all of it: a long training's log has many megabytes.
_LOG_BYTES = 256 * 1024


class JobDocument(BaseModel):
    """A job as the API and the command line show it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    state: State
    attempt: int = Field(description="How often a trainer has started on the job.")
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = Field(None, description="Why it failed or was cancelled.")
    cancel_requested: bool = Field(False, description="Whether it was asked to stop.")
    spec: TrainingSpec
    phase: str | None = Field(None, description="What the trainer is at: dataset, fit, evaluate, export, register …")
    message: str | None = Field(None, description="The trainer's last word on it.")
    epoch: int | None = Field(None, description="Epochs finished.")
    epochs: int | None = Field(None, description="Epochs asked for; early stopping may end before.")
    remaining_seconds: float | None = Field(None, description="Estimated time until the job is done.")
    history: list[Progress] = Field(default_factory=list, description="One entry an epoch, in order.")
    result: JobResult | None = Field(None, description="Model, version and metrics, once it succeeded.")

    @property
    def final(self) -> bool:
        """Whether nothing about the job will change any more."""
        return self.state in FINAL

    @classmethod
    def of(cls, job: JobFolder) -> Self:
        """Read a job's folder as it stands now."""
        # The state is read first: whatever it says is then found in the files that were written before it.
        state = job.state()
        spec = job.spec()
        lines = job.progress()
        history = epoch_history(lines)
        last = lines[-1] if lines else None
        return cls(
            id=job.id,
            state=state.state,
            attempt=state.attempt,
            submitted_at=state.submitted_at,
            started_at=state.started_at,
            finished_at=state.finished_at,
            reason=state.reason,
            cancel_requested=job.cancel_requested,
            spec=spec,
            phase=last.phase if last else None,
            message=last.message if last else None,
            epoch=history[-1].epoch if history else None,
            epochs=next((line.epochs for line in reversed(lines) if line.epochs is not None), spec.epochs),
            remaining_seconds=_remaining(lines) if state.state == "running" else None,
            history=history,
            result=job.result(),
        )


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
                        _sync(self.root)
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
            raise JobNotFound(f"There is no job {job_id[:80]!r}: job ids look like 20261122-163012-0f3c9ab.") from error
        if not (path / "state.json").is_file():
            raise JobNotFound(f"There is no job {job_id!r}.")
        return JobFolder(path)

    def document(self, job_id: str) -> JobDocument:
        """What the job `job_id` looks like now.

        Raises:
            JobNotFound: there is none.
        """
        return JobDocument.of(self.get(job_id))

    def states(self) -> dict[str, JobState]:
        """The state of each job by id, the oldest first. Cheap to call often: finished jobs are read once."""
        states = {}
        for job_id in sorted(_ids(self.root)):
            state = self._final.get(job_id)
            if state is None:
                try:
                    state = JobFolder(self.root / job_id).state()
                except (FileNotFoundError, ValueError):
                    continue  # removed or spoilt by hand: not ours to judge
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
            Conflict: it has ended already.
        """
        job = self.get(job_id)
        if (state := job.state()).state in FINAL:
            raise Conflict(f"Job {job.id} has ended already: it is {state.state}.")
        job.request_cancel()
        with job.hold() as held:
            # Without the lock somebody is at work on it and sees the marker, or has seen it by now.
            if held and (state := job.state()).state not in FINAL:
                reason = "Cancelled before it began." if state.attempt == 0 else "Cancelled on request."
                job.write_state(state.model_copy(update={"state": "cancelled", "finished_at": now(), "reason": reason}))
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


def epoch_history(lines: list[Progress]) -> list[Progress]:
    """One line an epoch: a resumed trainer may have done some again, and what it did last counts."""
    history: list[Progress] = []
    for line in lines:
        if line.epoch is None:
            continue
        while history and (history[-1].epoch or 0) >= line.epoch:
            history.pop()
        history.append(line)
    return history


def log_tail(job: JobFolder, *, lines: int | None = None) -> str:
    """The end of a job's log, in whole lines; empty if there is no log yet."""
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
    text = data.decode("utf-8", errors="replace").split("\n")
    end = len(text) - 1 if text[-1] == "" else len(text)
    start = 0 if lines is None else max(0, end - lines)
    return "".join(f"{line}\n" for line in text[start:end])


def _remaining(lines: list[Progress]) -> float | None:
    """The last estimate, less the time since it was made, in seconds."""
    for line in reversed(lines):
        if line.remaining_seconds is not None:
            return max(0.0, line.remaining_seconds - (now() - line.at).total_seconds())
    return None


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


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
