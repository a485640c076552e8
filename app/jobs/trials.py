"""The trials of a search: folders like those of jobs, within the job's.

trials/0003/        a job's folder (`app.jobs.folder`), whose spec is what the trial trains
  trial.json        its number, and the values that it tries
  score.json        what it came to, once it is complete
  cancel            why it is to stop; it also stops where the job is asked to, or has ended
search.json         beside `trials`: how long the search has run, and in the end the best trial

Whoever runs the search writes trial.json and search.json, the trial's own process the rest.
"""

from __future__ import annotations

import shutil
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from app.jobs.document import epoch_history, readable
from app.jobs.folder import FINAL, JobFolder, JobState, Placement, State, now
from app.jobs.search import Search, Values
from app.jobs.spec import TrainingSpec

_STRICT = ConfigDict(frozen=True, extra="forbid")

TRIALS = "trials"
_SEARCH = "search.json"
_STAGING = ".new"

TrialState = Literal["queued", "running", "complete", "pruned", "stopped", "failed", "cancelled"]
StopReason = Literal["pruned", "stopped"]


class Score(BaseModel):
    """`score.json`: of the epoch whose weights were kept."""

    model_config = _STRICT

    val_accuracy: float
    val_loss: float
    best_epoch: int
    epochs: int
    parameters: int = Field(description="Numbers that the network has.")
    seconds: float = Field(description="Duration of all epochs.")


class SearchState(BaseModel):
    """`search.json`."""

    model_config = _STRICT

    seconds: float = Field(0.0, description="How long the search has run, over all attempts.")
    best: int | None = Field(None, description="Number of the best trial, once the search is done.")
    importances: dict[str, float] | None = Field(
        None, description="Share of each path in how well the trials did, the largest first."
    )
    remark: str = Field("", description="Why there are no importances, or what they are worth.")
    chosen: TrainingSpec | None = Field(None, description="What is trained in full, once the search is done.")


class _Tried(BaseModel):
    """`trial.json`."""

    model_config = _STRICT

    number: int
    values: dict[str, JsonValue]


class TrialFolder(JobFolder):
    """A trial's folder; `id` is its number in four digits."""

    @classmethod
    def create(cls, job: JobFolder, number: int, values: Values, spec: TrainingSpec) -> Self:
        """Make the folder of a trial; it is there complete or not at all."""
        root = job.path / TRIALS
        root.mkdir(exist_ok=True)
        staged = cls(root / _STAGING)
        shutil.rmtree(staged.path, ignore_errors=True)
        staged.path.mkdir()
        staged.write_spec(spec)
        staged.write_state(JobState(submitted_at=now()))
        staged.write_text("trial.json", _Tried(number=number, values=values).model_dump_json(indent=2))
        return cls(staged.path.rename(root / f"{number:04d}"))

    @property
    def number(self) -> int:
        """From 1."""
        return int(self.id)

    @property
    def job(self) -> JobFolder:
        """The job whose search it belongs to."""
        return JobFolder(self.path.parent.parent)

    def values(self) -> Values:
        """What it tries."""
        return _Tried.model_validate_json((self.path / "trial.json").read_bytes()).values

    def score(self) -> Score | None:
        try:
            return Score.model_validate_json((self.path / "score.json").read_bytes())
        except FileNotFoundError:
            return None

    def write_score(self, score: Score) -> None:
        self.write_text("score.json", score.model_dump_json(indent=2))

    @property
    def cancel_requested(self) -> bool:
        if (self.path / "cancel").exists() or self.job.cancel_requested:
            return True
        # Nobody waits for a trial of a job that has ended, as one does whose trainer died too often.
        return self.job.state().state in FINAL

    def stop(self, why: StopReason) -> None:
        """Ask it to end: it is worse than others (`pruned`), or there is no time for it (`stopped`)."""
        self.write_text("cancel", why)

    def stopped(self) -> StopReason | None:
        """Why it was asked to end, if it was."""
        try:
            return "pruned" if (self.path / "cancel").read_text("utf-8") == "pruned" else "stopped"
        except FileNotFoundError:
            return None


class TrialEpoch(BaseModel):
    """A point of a trial's curve."""

    model_config = _STRICT

    epoch: int
    val_accuracy: float
    val_loss: float


class TrialDocument(BaseModel):
    """A trial: what it tried, and what came of it."""

    model_config = _STRICT

    number: int = Field(description="From 1, in the order of their beginning.")
    state: TrialState = Field(
        description="`complete`: trained to its end. `pruned`: stopped, since others did better. `stopped`: the time "
        "was up. Only complete ones can be the best."
    )
    values: dict[str, JsonValue] = Field(description="What it tried for each path of the space.")
    val_accuracy: float | None = Field(None, description="On the validation split; of its last epoch until it ends.")
    val_loss: float | None = None
    best_epoch: int | None = Field(None, description="The epoch whose weights were kept.")
    epochs: int | None = Field(None, description="Epochs of its training.")
    parameters: int | None = Field(None, description="Numbers that its network has.")
    seconds: float | None = Field(None, description="From its beginning to its end.")
    reason: str | None = Field(None, description="Why it failed.")
    placement: Placement | None = Field(
        None,
        description="Where it was sent, until it ends; while it is queued it waits there. Null: it is where the job "
        "is.",
    )
    curve: list[TrialEpoch] = Field(default_factory=list)

    @classmethod
    def of(cls, trial: TrialFolder) -> Self:
        """Read a trial's folder as it stands now.

        Raises:
            StorageFailed: a file of it cannot be read.
        """
        # The state first: what it says is then found in the files that were written before it.
        state = readable(trial, "state.json", trial.state)
        history = epoch_history(readable(trial, "progress.jsonl", trial.progress))
        score = readable(trial, "score.json", trial.score)
        curve = [
            TrialEpoch(epoch=line.epoch, val_accuracy=line.val_accuracy, val_loss=line.val_loss)
            for line in history
            if line.epoch is not None and line.val_accuracy is not None and line.val_loss is not None
        ]
        last = curve[-1] if curve else None
        return cls(
            number=trial.number,
            state=_state(state.state, trial.stopped()),
            values=readable(trial, "trial.json", trial.values),
            val_accuracy=score.val_accuracy if score else last.val_accuracy if last else None,
            val_loss=score.val_loss if score else last.val_loss if last else None,
            best_epoch=score.best_epoch if score else None,
            epochs=score.epochs if score else history[-1].epochs if history else None,
            parameters=score.parameters if score else None,
            seconds=(state.finished_at - state.started_at).total_seconds()
            if state.started_at and state.finished_at
            else None,
            reason=state.reason if state.state == "failed" else None,
            placement=readable(trial, "placement.json", trial.placement) if state.state not in FINAL else None,
            curve=curve,
        )

    @property
    def ended(self) -> bool:
        return self.state not in ("queued", "running")


class SearchDocument(BaseModel):
    """The search of a job, with all of its trials."""

    model_config = _STRICT

    job: str
    search: Search | None = Field(None, description="What was asked for; null for a job that searches for nothing.")
    done: bool = Field(False, description="Whether the best is chosen.")
    seconds: float = Field(0.0, description="How long the search has run.")
    best: int | None = Field(None, description="Number of the best trial so far.")
    importances: dict[str, float] | None = Field(
        None, description="Share of each path in how well the trials did, the largest first; once the search is done."
    )
    remark: str = ""
    trials: list[TrialDocument] = Field(default_factory=list)

    @classmethod
    def of(cls, job: JobFolder) -> Self:
        """Read a job's search as it stands now.

        Raises:
            StorageFailed: a file cannot be read.
        """
        spec = readable(job, "spec.json", job.spec)
        if spec.search is None:
            return cls(job=job.id)
        state = readable(job, _SEARCH, lambda: read_search(job))
        trials = [TrialDocument.of(trial) for trial in trial_folders(job)]
        ranked = ranking(trials, spec.search)
        return cls(
            job=job.id,
            search=spec.search,
            done=state.best is not None,
            seconds=state.seconds,
            best=ranked[0].number if ranked else None,
            importances=state.importances,
            remark=state.remark,
            trials=trials,
        )


def trial_folders(job: JobFolder) -> list[TrialFolder]:
    """The trials that have been made, in order."""
    try:
        names = sorted(path.name for path in (job.path / TRIALS).iterdir() if path.name.isdecimal())
    except FileNotFoundError:
        return []
    return [TrialFolder(job.path / TRIALS / name) for name in names]


def read_search(job: JobFolder) -> SearchState:
    """What the search has come to; of one that has not begun, nothing yet."""
    try:
        return SearchState.model_validate_json((job.path / _SEARCH).read_bytes())
    except FileNotFoundError:
        return SearchState()


def write_search(job: JobFolder, state: SearchState) -> None:
    """Only for the holder of the job's lock."""
    job.write_text(_SEARCH, state.model_dump_json(indent=2))


def ranking(trials: list[TrialDocument], search: Search) -> list[TrialDocument]:
    """The complete trials, the best first. Of equal ones the other figure decides, then the earlier one."""

    def key(trial: TrialDocument) -> tuple[float, float, int]:
        accuracy, loss = -(trial.val_accuracy or 0.0), trial.val_loss or 0.0
        return (accuracy, loss, trial.number) if search.objective == "val_accuracy" else (loss, accuracy, trial.number)

    return sorted((trial for trial in trials if trial.state == "complete"), key=key)


def _state(state: State, stopped: StopReason | None) -> TrialState:
    if state == "cancelled":
        return stopped or "cancelled"
    return "complete" if state == "succeeded" else state
