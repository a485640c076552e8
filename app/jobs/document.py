"""A training job as the API and the command line show it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.asked import first_complaint
from app.errors import StorageFailed
from app.jobs.folder import FINAL, JobFolder, JobResult, Placement, Progress, State, now
from app.jobs.spec import TrainingSpec

_STRICT = ConfigDict(frozen=True, extra="forbid")

_Read = TypeVar("_Read")


class JobDocument(BaseModel):
    """A job: what was asked for, how far it is, and what came of it."""

    model_config = _STRICT

    id: str
    state: State
    attempt: int = Field(description="How often a trainer has started on the job.")
    submitted_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None
    reason: str | None = Field(None, description="Why it failed or was cancelled.")
    cancel_requested: bool = Field(False, description="Whether it was asked to stop.")
    ahead: int | None = Field(
        None, description="How many other jobs have their turn before it, while it is queued: running or older ones."
    )
    spec: TrainingSpec
    phase: str | None = Field(
        None,
        description="What the trainer is at: search, dataset, fit, evaluate, export, register …; queue, while it waits "
        "at a cluster for its place.",
    )
    message: str | None = Field(None, description="The trainer's last word on it, or what it waits for.")
    epoch: int | None = Field(None, description="Epochs finished.")
    epochs: int | None = Field(None, description="Epochs asked for or chosen; early stopping may end before.")
    trial: int | None = Field(None, description="Trials of its search that have ended.")
    trials: int | None = Field(None, description="Most trials of its search, where that is known.")
    remaining_seconds: float | None = Field(None, description="Estimated time until the job is done.")
    history: list[Progress] = Field(default_factory=list, description="One entry an epoch, in order.")
    result: JobResult | None = Field(None, description="Model, version and metrics, once it succeeded.")

    @property
    def final(self) -> bool:
        """Whether nothing about the job will change any more."""
        return self.state in FINAL

    @classmethod
    def of(cls, job: JobFolder) -> Self:
        """Read a job's folder as it stands now.

        Raises:
            StorageFailed: a file of it cannot be read; the message says which, and why.
        """
        # The state is read first: whatever it says is then found in the files that were written before it.
        state = readable(job, "state.json", job.state)
        spec = readable(job, "spec.json", job.spec)
        lines = readable(job, "progress.jsonl", job.progress)
        placement = readable(job, "placement.json", job.placement) if state.state not in FINAL else None
        waiting = _waiting(placement, state.attempt)
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
            phase="queue" if waiting else last.phase if last else None,
            message=waiting or (last.message if last else None),
            epoch=history[-1].epoch if history else None,
            epochs=next((line.epochs for line in reversed(lines) if line.epochs is not None), spec.epochs),
            trial=next((line.trial for line in reversed(lines) if line.trial is not None), None),
            trials=next((line.trials for line in reversed(lines) if line.trials is not None), None),
            remaining_seconds=_remaining(lines) if state.state == "running" and not waiting else None,
            history=history,
            result=readable(job, "result.json", job.result),
        )


class UnreadableJob(BaseModel):
    """A job whose files are spoilt, or were written by another release."""

    model_config = _STRICT

    id: str
    problem: str = Field(description="Which file cannot be read, and why.")


class JobList(BaseModel):
    """Training jobs, the newest first."""

    model_config = _STRICT

    jobs: list[JobDocument]
    unreadable: list[UnreadableJob] = Field(
        default_factory=list, description="Jobs that cannot be shown, with the reason; none, normally."
    )


def readable(job: JobFolder, file: str, read: Callable[[], _Read]) -> _Read:
    """What `read` makes of `file` in the job's folder.

    Raises:
        StorageFailed: the file is missing, spoilt, or written by another release.
    """
    try:
        return read()
    except ValidationError as error:
        raise StorageFailed(f"The {file} of job {job.id} is not valid here: {first_complaint(error)}.") from error
    except OSError as error:
        raise StorageFailed(f"The {file} of job {job.id} cannot be read: {error.strerror or error}.") from error


def why(result: JobResult) -> str:
    """The reason why the version was promoted or not, without the words that say which of the two."""
    reason = result.promotion_reason
    for said in ("registered, ", "not promoted: "):
        reason = reason.removeprefix(said)
    return reason.rstrip(".")


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


def _waiting(placement: Placement | None, attempt: int) -> str | None:
    """What a job waits for whose trainer was sent to another machine, until it has begun there."""
    if placement is None or placement.attempt <= attempt:
        return None
    return f"waiting at {placement.scheduler} for {placement.asked_for}, as {placement.submission}"


def _remaining(lines: list[Progress]) -> float | None:
    """The last estimate, less the time since it was made, in seconds."""
    for line in reversed(lines):
        if line.remaining_seconds is not None:
            return max(0.0, line.remaining_seconds - (now() - line.at).total_seconds())
    return None
