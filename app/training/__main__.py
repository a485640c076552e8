"""`python -m app.training JOB_FOLDER`: run one training job to its end.

Exit status: 0 succeeded, 1 failed, 2 wrong usage, 3 another process runs this job, 4 cancelled.
"""

from __future__ import annotations

import errno
import os
import platform
import shutil
import sys
import traceback
from contextlib import suppress
from pathlib import Path

from app.cores import available_cores
from app.errors import FoveaError, TrainingFailed
from app.jobs import out_of_memory
from app.jobs.folder import CHECKPOINT, FINAL, JobFolder, JobResult, JobState, State, now
from app.memory import peak_memory
from app.preprocessing import ignore_decoder_warnings
from app.settings import Settings
from app.training.reporter import Cancelled, Reporter


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "spec.json").is_file():
        print("usage: python -m app.training JOB_FOLDER (a folder with spec.json)", file=sys.stderr)
        return 2
    ignore_decoder_warnings()
    job = JobFolder(Path(arguments[0]))
    with job.hold() as held:
        if not held:
            print(f"job {job.id} is already being run by another process", file=sys.stderr)
            return 3
        state = job.state()
        if state.state in FINAL:
            return 0
        state = state.model_copy(
            update={"state": "running", "attempt": state.attempt + 1, "started_at": state.started_at or now()}
        )
        job.write_state(state)
        return _run(job, state)


def _run(job: JobFolder, state: JobState) -> int:
    reporter = Reporter(job, state.attempt)
    reporter.say(f"job {job.id}, attempt {state.attempt}, process {os.getpid()} on {platform.node()}")
    try:
        result = _train(job, reporter)
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
    job.write_result(result)
    _finish(job, state, "succeeded", None)
    reporter.say(f"succeeded: {result.model} version {result.version}; {result.promotion_reason}")
    return 0


def _train(job: JobFolder, reporter: Reporter) -> JobResult:
    settings = Settings()
    threads = settings.training_threads or available_cores()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ["OMP_NUM_THREADS"] = str(threads)
    reporter.say(f"loading TensorFlow, {threads} threads")
    # Imported here: it takes seconds, and a job that cannot start should say so at once.
    import tensorflow as tf

    from app.training.pipeline import train

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(2)
    # On processors sums have a fixed order anyway, for a fixed number of threads; on GPUs this sees to it.
    tf.config.experimental.enable_op_determinism()
    try:
        return train(job, settings, reporter, threads=threads)
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
    ended = state.model_copy(update={"state": final, "finished_at": now(), "reason": reason})
    try:
        job.write_state(ended)
    except OSError:
        _drop_checkpoints(job)
        job.write_state(ended)
    _drop_checkpoints(job)


def _drop_checkpoints(job: JobFolder) -> None:
    """Nobody resumes a job that has ended."""
    shutil.rmtree(job.path / CHECKPOINT, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
