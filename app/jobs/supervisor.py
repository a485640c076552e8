"""Sees to it that every queued job is run once and every job ends: launches, adopts, resumes, cancels.

It keeps nothing that matters in memory. What it needs to know stands in the jobs' folders,
so a supervisor that dies is replaced by the next one, here or in another process.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from app.errors import FoveaError
from app.jobs import out_of_memory
from app.jobs.document import why
from app.jobs.executors.base import Executor, Exit
from app.jobs.folder import FINAL, JobFolder, JobState, State
from app.jobs.jobs import Jobs, log_tail

_LOCK = "executor.lock"
_LOG_LINES = 10
# Seconds between tries while the workspace cannot be read or written.
_LONGEST_PAUSE = 30.0
# Stands in for a job's id where the trouble is with all of them.
_WORKSPACE = ""

logger = logging.getLogger(__name__)


class Supervisor:
    """Runs the jobs of a workspace on an executor, the oldest first.

    Any number of processes may run one on the same workspace: one leads, the others stand
    by until it dies. Stopping it, or losing it to `kill -9`, leaves trainers alone: the next
    leader adopts those that live and resumes those that died.
    """

    def __init__(
        self,
        jobs: Jobs,
        executor: Executor,
        *,
        poll: float = 0.5,
        tries: int = 3,
        grace: float = 5.0,
        kill_grace: float = 3.0,
    ) -> None:
        """Nothing runs before `run`.

        Args:
            jobs: the workspace's jobs.
            executor: what launches trainers.
            poll: seconds between looks at the jobs.
            tries: a job fails when this many trainers in a row died on it without getting to a checkpoint.
            grace: seconds a trainer gets to end when it is cancelled or done, before it is asked to by SIGTERM.
            kill_grace: seconds from then on, before it is killed.
        """
        self._jobs = jobs
        self._executor = executor
        self._poll = poll
        self._tries = tries
        self._grace = grace
        self._kill_grace = kill_grace
        self._attempt_at_launch: dict[str, int] = {}
        self._due_since: dict[str, float] = {}
        self._said: dict[str, str] = {}
        self._unfinished: set[str] = set()

    def run(self, stop: threading.Event) -> None:
        """Work until `stop` is set; stand by while another process leads. A trainer at work is left at it."""
        pause = self._poll
        while not stop.is_set():
            try:
                with self._lead() as leading:
                    if leading:
                        logger.info("Running the training jobs of %s.", self._jobs.root)
                        self._jobs.clean()
                    else:
                        pause = self._poll
                    while leading and not stop.is_set():
                        self.step()
                        pause = self._poll
                        self._said.pop(_WORKSPACE, None)
                        stop.wait(self._poll)
            except OSError as error:
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._complain(
                    _WORKSPACE, error, f"The training jobs of {self._jobs.root} cannot be looked after; trying again."
                )
            stop.wait(pause)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run in a thread for the length of the block."""
        stop = threading.Event()
        thread = threading.Thread(target=self.run, args=(stop,), name="training-jobs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def step(self) -> None:
        """One look at all jobs, doing what is due. Only for the leader; `run` calls it."""
        living = 0
        waiting: list[tuple[bool, JobFolder]] = []
        for job_id, known in self._jobs.states().items():
            self._tell_end(job_id, known)
            # A trainer that has said its last word still takes its memory until its process is gone.
            if known.state in FINAL and job_id not in self._attempt_at_launch:
                continue
            job = JobFolder(self._jobs.root / job_id)
            try:
                if self._executor.alive(job):
                    living += 1
                    self._see_to_end(job, known)
                elif self._untouched(job, known) or self._settle(job) is None:
                    waiting.append((known.state == "queued", job))
            except (OSError, ValueError) as error:
                # One unreadable job, or a full disk, must not keep the others from running.
                self._complain(job_id, error, f"Training job {job_id} could not be looked after.")
        # Those that were interrupted go before those that never began; else by age.
        for _, job in sorted(waiting, key=lambda entry: (entry[0], entry[1].id))[
            : max(0, self._executor.capacity - living)
        ]:
            self._launch(job)

    def _tell_end(self, job_id: str, known: JobState) -> None:
        """Log how a job has ended, whoever ended it: its trainer, a request, or this supervisor."""
        if known.state not in FINAL:
            self._unfinished.add(job_id)
        elif job_id in self._unfinished:
            self._unfinished.remove(job_id)
            logger.info("Training job %s: %s", job_id, _outcome(JobFolder(self._jobs.root / job_id), known))

    def _untouched(self, job: JobFolder, state: JobState) -> bool:
        """Whether a job is simply waiting for its turn: no need to take its lock at every look."""
        return state.state == "queued" and job.id not in self._attempt_at_launch and not job.cancel_requested

    def _launch(self, job: JobFolder) -> None:
        try:
            self._attempt_at_launch[job.id] = job.state().attempt
            self._executor.launch(job)
            logger.info("Training job %s: trainer launched.", job.id)
        except FoveaError as error:
            self._finish(job, "failed", str(error))
        except (OSError, ValueError) as error:
            self._complain(job.id, error, f"Training job {job.id} could not be launched.")

    def _settle(self, job: JobFolder) -> State | None:
        """Draw the conclusion for a job that nobody is at work on: its final state, or None if it is to be launched."""
        ending = self._executor.collect(job)
        before = self._attempt_at_launch.pop(job.id, None)
        self._due_since.pop(job.id, None)
        with job.hold() as held:
            if not held:
                return job.state().state  # a trainer has come between: seen at the next look
            state = job.state()
            if state.state in FINAL:
                return state.state
            if ending is not None and not ending.refused and before == state.attempt:
                # It died before it could say that it had begun: that counts, or it would be tried for ever.
                state = state.begun()
                job.write_state(state)
            if job.result() is not None:
                return _end(job, state, "succeeded", None)
            if job.cancel_requested and not job.export_begun:
                return _end(job, state, "cancelled", "Cancelled on request.")
            deaths = _fruitless_attempts(job, state)
            if deaths >= self._tries:
                return _end(job, state, "failed", _obituary(job, deaths, ending))
        if ending is not None and not ending.refused:
            logger.warning("Training job %s: the trainer %s; it is resumed.", job.id, ending.description)
        elif state.state == "running":
            logger.warning("Training job %s: its trainer is gone; it is resumed.", job.id)
        return None

    def _finish(self, job: JobFolder, final: State, reason: str) -> None:
        with job.hold() as held:
            if held and (state := job.state()).state not in FINAL:
                _end(job, state, final, reason)

    def _see_to_end(self, job: JobFolder, known: JobState) -> None:
        """A trainer that is to stop, or is done, ends by itself; one that does not is asked to, and then made to.

        One that has come to the export is left to finish: killed there it might leave a version of a cancelled job.
        """
        if known.state not in FINAL and (not job.cancel_requested or job.export_begun):
            self._due_since.pop(job.id, None)
            return
        seen = self._due_since.setdefault(job.id, time.monotonic())
        waited = time.monotonic() - seen
        if waited >= self._grace:
            self._executor.end(job, force=waited >= self._grace + self._kill_grace)

    def _complain(self, about: str, error: Exception, message: str) -> None:
        """Log an error with its traceback, once: what goes on failing the same way twice a second fills disks."""
        problem = f"{message} {error}"
        if self._said.get(about) != problem:
            self._said[about] = problem
            logger.exception(message)

    @contextmanager
    def _lead(self) -> Iterator[bool]:
        """Try to become the one that runs this workspace's jobs; the kernel ends it with the process."""
        self._jobs.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._jobs.root / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True
        finally:
            os.close(descriptor)


def _end(job: JobFolder, state: JobState, final: State, reason: str | None) -> State:
    job.write_state(state.ended(final, reason))
    return final


def _outcome(job: JobFolder, state: JobState) -> str:
    """How a job has ended, in a line."""
    if state.state != "succeeded":
        # Below the first line of a reason stands the end of the trainer's log.
        reason = (state.reason or "no reason was given").partition("\n")[0]
        return f"{state.state}: {reason.removesuffix(' The end of its log:')}"
    try:
        result = job.result()
    except (OSError, ValueError):
        result = None
    if result is None:
        return "succeeded; its result.json cannot be read."
    accuracy = result.metrics.get("accuracy")
    measured = "" if accuracy is None else f", accuracy {accuracy:.4f}"
    promoted = "promoted" if result.promoted else "not promoted"
    return f"succeeded, {result.model} version {result.version}{measured}, {promoted} ({why(result)})"


def _fruitless_attempts(job: JobFolder, state: JobState) -> int:
    """Attempts in a row, up to the last, that came to no checkpoint, be it after an epoch or amid one.

    In a search that is one of a trial; the line that tells of it, or of the trial's end, has `trial`.

    Restarts of a machine interrupt a long training more often than any small number; as
    long as it gets further in between, it is not at fault.
    """
    got_somewhere = (
        line.attempt for line in job.progress() if (line.epoch, line.step, line.trial) != (None, None, None)
    )
    fruitful = max(got_somewhere, default=0)
    return state.attempt - fruitful


def _obituary(job: JobFolder, deaths: int, ending: Exit | None) -> str:
    last = f" The last one {ending.description}." if ending is not None else ""
    log = log_tail(job, lines=_LOG_LINES).strip()
    if ending is not None and out_of_memory.suspected(f"{ending.description}\n{log}"):
        last += f" If it was memory: {out_of_memory.advice(job)}"
    end = f" The end of its log:\n{log}" if log else " It wrote no log."
    times = "time" if deaths == 1 else "times in a row"
    return f"The trainer died {deaths} {times} without getting to a checkpoint.{last}{end}"
