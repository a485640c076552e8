"""A training job is a folder; this is what stands in it, and who may write what.

spec.json       the validated request; written once, at submission
state.json      where the job stands; replaced atomically, by the holder of `lock` only
progress.jsonl  one line an epoch, a checkpoint amid an epoch, or a phase, appended by the trainer
log.txt         output of the trainer
checkpoint/     the trainer's own: where it goes on when it is resumed; gone once the job has ended
result.json     what came out, once it succeeded
trials/         one folder like this one for each trial of a search; see `app.jobs.trials`
search.json     what the search has come to, where there is one
placement.json  where an executor has sent its last trainer, where that is another machine
cancel          a marker: whoever creates it asks the job to stop
lock            held (flock) by the process that runs the job; the kernel drops it when that process dies.
                Its content is the holder's process id
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.jobs.spec import TrainingSpec
from app.store.manifest import PromotionDecision
from app.store.storage import sync_folder

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})

# The trainer's own folder in a job's.
CHECKPOINT = "checkpoint"

# Once a trainer has come here, a version is made of what it trained. The word for it is said before the deed.
_EXPORT_OR_LATER = frozenset({"export", "register", "promote"})

# `alive` takes the lock for an instant to see whether it is free; whoever wants it tries past that.
_LOCK_TRIES = 5
_LOCK_PAUSE = 0.02


class JobState(BaseModel):
    """`state.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: State = "queued"
    attempt: int = Field(0, ge=0, description="How often a trainer has started on the job.")
    submitted_at: datetime
    started_at: datetime | None = Field(None, description="When the first attempt began.")
    finished_at: datetime | None = None
    reason: str | None = Field(None, description="Why it failed or was cancelled, for people.")

    def begun(self) -> JobState:
        """What it is once one more attempt has begun, now."""
        update = {"state": "running", "attempt": self.attempt + 1, "started_at": self.started_at or now()}
        return self.model_copy(update=update)

    def ended(self, final: State, reason: str | None = None) -> JobState:
        """What it is once the job has ended, now."""
        return self.model_copy(update={"state": final, "finished_at": now(), "reason": reason})


class Progress(BaseModel):
    """A line of `progress.jsonl`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    at: datetime
    attempt: int
    phase: Literal["search", "dataset", "fit", "evaluate", "export", "register", "promote"]
    message: str = ""
    epoch: int | None = Field(None, description="Epochs finished, from 1; set on the lines of epochs.")
    epochs: int | None = Field(None, description="Epochs asked for.")
    step: int | None = Field(
        None, description="Steps done of the epoch that runs; set on the lines of checkpoints amid an epoch."
    )
    steps: int | None = Field(None, description="Steps of an epoch.")
    trial: int | None = Field(
        None, description="Trials of the search that have ended; set when one has, and once an attempt if one gets on."
    )
    trials: int | None = Field(None, description="Trials that there are at most, where that is known.")
    loss: float | None = None
    accuracy: float | None = None
    val_loss: float | None = None
    val_accuracy: float | None = None
    learning_rate: float | None = None
    seconds: float | None = Field(None, description="Duration of the epoch.")
    remaining_seconds: float | None = Field(None, description="Estimated time until the job is done.")


class JobResult(BaseModel):
    """`result.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    version: int
    metrics: dict[str, float]
    promoted: bool
    promotion_reason: str
    decision: PromotionDecision | None = Field(
        None, description="How it compared with the production version, where the policy `if_better` compared them."
    )
    warnings: list[str] = Field(
        default_factory=list, description="What of the data did not go as it should, and may mislead about the result."
    )


class Placement(BaseModel):
    """`placement.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheduler: str = Field(description="Who places the trainer, for people: `Ray`.")
    submission: str = Field(description="By what name the scheduler knows it.")
    attempt: int = Field(description="Which attempt on the job the trainer is to make.")
    asked_for: str = Field(description="What it needs to begin, for people: `2 cores`.")
    at: datetime


class JobFolder:
    """Reading and writing one job's folder. Every write is atomic; readers need no lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id = path.name

    def spec(self) -> TrainingSpec:
        return TrainingSpec.model_validate_json((self.path / "spec.json").read_bytes())

    def write_spec(self, spec: TrainingSpec) -> None:
        """Only at submission."""
        self.write_text("spec.json", spec.model_dump_json(indent=2))

    def state(self) -> JobState:
        return JobState.model_validate_json((self.path / "state.json").read_bytes())

    def write_state(self, state: JobState) -> None:
        """Replace the state. Only for the holder of `lock`."""
        self.write_text("state.json", state.model_dump_json(indent=2))

    def write_result(self, result: JobResult) -> None:
        self.write_text("result.json", result.model_dump_json(indent=2))

    def result(self) -> JobResult | None:
        try:
            return JobResult.model_validate_json((self.path / "result.json").read_bytes())
        except FileNotFoundError:
            return None

    def write_placement(self, placement: Placement) -> None:
        """Only for the executor, before it sends a trainer away."""
        self.write_text("placement.json", placement.model_dump_json(indent=2))

    def forget_placement(self) -> None:
        """Only for the executor, when it has started a trainer where it is itself."""
        (self.path / "placement.json").unlink(missing_ok=True)

    def placement(self) -> Placement | None:
        try:
            return Placement.model_validate_json((self.path / "placement.json").read_bytes())
        except FileNotFoundError:
            return None

    def append(self, progress: Progress) -> None:
        """Add a line of progress. When this returns it is on disk: whether a job can be cancelled hangs on it."""
        line = progress.model_dump_json(exclude_none=True).encode() + b"\n"
        descriptor = os.open(self.path / "progress.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                # A crash or a full disk has cut the last line short; it must not spoil this one.
                line = b"\n" + line
            if (written := os.write(descriptor, line)) != len(line):
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written", "progress.jsonl")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def progress(self) -> list[Progress]:
        """All lines of progress; those that cannot be read are left out."""
        return [line for _, line in self.progress_after(0)]

    def progress_after(self, number: int) -> list[tuple[int, Progress]]:
        """Lines of progress after line `number`, each with its own number in the file, from 1.

        A line keeps its number whatever becomes of others. Left out are lines that were cut
        short (a crash) and those with other fields than this release knows.
        """
        try:
            lines = (self.path / "progress.jsonl").read_bytes().split(b"\n")[:-1]
        except FileNotFoundError:
            return []
        numbered = []
        for at, line in enumerate(lines[number:], start=number + 1):
            with suppress(ValidationError):
                numbered.append((at, Progress.model_validate_json(line)))
        return numbered

    def checkpoints(self) -> list[Progress]:
        """The lines that tell of a checkpoint: after an epoch, or amid one."""
        return [line for line in self.progress() if (line.epoch, line.step) != (None, None)]

    @property
    def export_begun(self) -> bool:
        """Whether a trainer has come to the export, in any attempt: from then on the job is not cancelled any more.

        An attempt that died there may have registered its version before it could say so.
        """
        return any(line.phase in _EXPORT_OR_LATER for line in self.progress())

    @property
    def cancel_requested(self) -> bool:
        return (self.path / "cancel").exists()

    def request_cancel(self) -> None:
        (self.path / "cancel").touch()

    @property
    def alive(self) -> bool:
        """Whether a process holds the job's lock."""
        with self._lock_file() as descriptor:
            return not _lock(descriptor, fcntl.LOCK_SH)

    @property
    def holder(self) -> int | None:
        """Process id of who took the lock last; whether it still holds it, and is still the same, is another matter."""
        try:
            return int((self.path / "lock").read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    @contextmanager
    def hold(self) -> Iterator[bool]:
        """Try to take the job's lock for the length of the block; yields whether it was free."""
        with self._lock_file() as descriptor:
            held = _lock(descriptor, fcntl.LOCK_EX, tries=_LOCK_TRIES)
            if held:
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield held

    @contextmanager
    def _lock_file(self) -> Iterator[int]:
        """Descriptor of the lock file; closing it gives the lock back."""
        descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def write_text(self, name: str, text: str) -> None:
        """Replace a file of the folder: it has the old content or the new one, whatever happens."""
        temporary = self.path / f".{name}.{os.getpid()}"
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.path / name)
        except OSError:
            # A full disk leaves half a file, which would be in the way of nothing but the space that it takes.
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(self.path)


def now() -> datetime:
    return datetime.now(UTC)


def _lock(descriptor: int, kind: int, tries: int = 1) -> bool:
    for attempt in range(tries):
        if attempt:
            time.sleep(_LOCK_PAUSE)
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False
