"""A process that runs one folder's work to its end, whatever the end is: what all trainers have in common.

Exit status: 0 succeeded, 1 failed, 2 wrong usage, 3 another process runs it, 4 cancelled.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from app.errors import FoveaError, TrainingFailed
from app.jobs import out_of_memory
from app.jobs.folder import CHECKPOINT, FINAL, JobFolder, JobState, State
from app.memory import peak_memory
from app.preprocessing import ignore_decoder_warnings
from app.training.reporter import Cancelled, Reporter

FolderT = TypeVar("FolderT", bound=JobFolder)
ResultT = TypeVar("ResultT")


def run(
    job: FolderT,
    work: Callable[[FolderT, Reporter], ResultT],
    store: Callable[[FolderT, ResultT], str],
    *,
    name: str = "job",
) -> int:
    """Hold the folder's lock, do the work, and leave a final state; returns the exit status.

    Args:
        job: the folder.
        work: does it; what it raises becomes the reason of the failure.
        store: writes the result into the folder; returns what it is, for the log.
        name: what the log calls the folder.
    """
    ignore_decoder_warnings()
    with job.hold() as held:
        if not held:
            print(f"{name} {job.id} is already being run by another process", file=sys.stderr)
            return 3
        state = job.state()
        if state.state in FINAL:
            return 0
        state = state.begun()
        job.write_state(state)
        reporter = Reporter(job, state.attempt)
        reporter.say(f"{name} {job.id}, attempt {state.attempt}, process {os.getpid()} on {platform.node()}")
        return _run(job, state, reporter, work, store)


def _run(
    job: FolderT,
    state: JobState,
    reporter: Reporter,
    work: Callable[[FolderT, Reporter], ResultT],
    store: Callable[[FolderT, ResultT], str],
) -> int:
    try:
        result = work(job, reporter)
    except Cancelled:
        reporter.say("cancelled")
        _finish(job, state, "cancelled", "Cancelled on request.")
        return 4
    except FoveaError as error:
        reporter.say(f"failed: {error}")
        _finish(job, state, "failed", str(error))
        return 1
    except OSError as error:
        _print_traceback()
        _finish(job, state, "failed", _out_of_memory(job) if error.errno == errno.ENOMEM else _refusal(error))
        return 1
    except MemoryError:
        _print_traceback()
        _finish(job, state, "failed", _out_of_memory(job))
        return 1
    except Exception as error:
        _print_traceback()
        _finish(job, state, "failed", f"Unexpected {type(error).__name__}: {error}"[:1000])
        return 1
    # First: on a disk that is full by now this makes room for the rest, and the version is registered.
    _drop_checkpoints(job)
    said = store(job, result)
    _finish(job, state, "succeeded", None)
    reporter.say(f"succeeded: {said}")
    return 0


@contextmanager
def tensorflow(job: JobFolder, reporter: Reporter, threads: int) -> Iterator[None]:
    """TensorFlow with so many threads, reproducible, for the length of the block.

    Raises:
        TrainingFailed: memory ran out in the block.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    reporter.say(f"loading TensorFlow, {threads} threads")
    # Imported here: it takes seconds, and what cannot start should say so at once.
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    # On processors sums have a fixed order anyway, for a fixed number of threads; on GPUs this sees to it.
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        raise TrainingFailed(_out_of_memory(job)) from error


def _print_traceback() -> None:
    # The log may be on the disk that is full.
    with suppress(OSError):
        traceback.print_exc()


def _refusal(error: OSError) -> str:
    what = f"The system refused: {error.strerror or error}" + (f" ({error.filename})." if error.filename else ".")
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return f"{what} Free some space, then submit the job again." if full else what


def _out_of_memory(job: JobFolder) -> str:
    return f"Out of memory: the trainer held up to {peak_memory() / 1e9:.1f} GB. {out_of_memory.advice(job)}"


def _finish(job: JobFolder, state: JobState, final: State, reason: str | None) -> None:
    ended = state.ended(final, reason)
    try:
        job.write_state(ended)
    except OSError:
        _drop_checkpoints(job)
        job.write_state(ended)
    _drop_checkpoints(job)


def _drop_checkpoints(job: JobFolder) -> None:
    """Nobody resumes a job that has ended."""
    shutil.rmtree(job.path / CHECKPOINT, ignore_errors=True)
