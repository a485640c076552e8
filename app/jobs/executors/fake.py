"""Jobs that end at once, for tests and demonstrations: nothing is trained and no process is started."""

from __future__ import annotations

import threading
from collections.abc import Callable

from app.errors import TrainingFailed
from app.jobs.executors.base import Exit
from app.jobs.folder import FINAL, JobFolder, JobResult, JobState, Progress, now

Register = Callable[[JobFolder], int]


class Fake:
    """Plays a trainer in a thread: scripted progress, then the job has succeeded.

    It keeps the contract of the real one: the lock, the states in their order, the cancel marker.
    """

    capacity = 1

    def __init__(
        self, *, epochs: int = 3, seconds: float = 0.0, version: int = 1, register: Register | None = None
    ) -> None:
        """Launch nothing yet.

        Args:
            epochs: lines of progress that it writes.
            seconds: how long each takes.
            version: the version that the result names; it does not exist in any store.
            register: makes a real version instead and returns its number.
        """
        self._epochs = epochs
        self._seconds = seconds
        self._register: Register = register or (lambda _: version)
        self._plays: dict[str, tuple[threading.Thread, threading.Event]] = {}

    def launch(self, job: JobFolder) -> None:
        """Start the play on `job`."""
        ended = threading.Event()
        thread = threading.Thread(target=self._train, args=(job, ended), name=f"fake-trainer-{job.id}", daemon=True)
        self._plays[job.id] = (thread, ended)
        thread.start()

    def alive(self, job: JobFolder) -> bool:
        """Whether the play goes on."""
        return (job.id in self._plays and self._plays[job.id][0].is_alive()) or job.alive

    def collect(self, job: JobFolder) -> Exit | None:
        """Known only of plays that were ended before their time."""
        if job.id not in self._plays or self._plays[job.id][0].is_alive():
            return None
        _, ended = self._plays.pop(job.id)
        return Exit("was told to end") if ended.is_set() else None

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Leave the stage as a killed trainer would: at once, without a word."""
        if job.id in self._plays:
            self._plays[job.id][1].set()

    def _train(self, job: JobFolder, ended: threading.Event) -> None:
        with job.hold() as held:
            state = job.state()
            if not held or state.state in FINAL:
                return
            state = state.begun()
            job.write_state(state)
            for epoch in range(1, self._epochs + 1):
                if ended.wait(self._seconds):
                    return
                if job.cancel_requested:
                    job.write_state(state.ended("cancelled", "Cancelled on request."))
                    return
                job.append(self._progress(state, epoch))
            self._succeed(job, state)

    def _progress(self, state: JobState, epoch: int) -> Progress:
        accuracy = 1 - 0.5**epoch
        return Progress(
            at=now(),
            attempt=state.attempt,
            phase="fit",
            message=f"Epoch {epoch} of {self._epochs}",
            epoch=epoch,
            epochs=self._epochs,
            loss=0.5**epoch,
            accuracy=accuracy,
            val_loss=0.5**epoch,
            val_accuracy=accuracy,
            learning_rate=0.001,
            seconds=self._seconds,
            remaining_seconds=self._seconds * (self._epochs - epoch),
        )

    def _succeed(self, job: JobFolder, state: JobState) -> None:
        try:
            version = self._register(job)
        except TrainingFailed as error:
            job.write_state(state.ended("failed", str(error)))
            return
        job.write_result(
            JobResult(
                model=job.spec().model_name,
                version=version,
                metrics={"accuracy": 1 - 0.5**self._epochs},
                promoted=False,
                promotion_reason="The promotion policy is manual.",
            )
        )
        job.write_state(state.ended("succeeded"))
