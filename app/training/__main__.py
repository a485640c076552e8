"""`python -m app.training JOB_FOLDER`: run one training job to its end.

Exit status: 0 succeeded, 1 failed, 2 wrong usage, 3 another process runs this job, 4 cancelled.
"""

from __future__ import annotations

import sys
from pathlib import Path

from app.cores import available_cores
from app.jobs.folder import JobFolder, JobResult
from app.settings import Settings
from app.training import process
from app.training.reporter import Reporter


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "spec.json").is_file():
        print("usage: python -m app.training JOB_FOLDER (a folder with spec.json)", file=sys.stderr)
        return 2
    return process.run(JobFolder(Path(arguments[0])), _train, _store)


def _train(job: JobFolder, reporter: Reporter) -> JobResult:
    settings = Settings()
    threads = settings.training_threads or available_cores()
    spec = job.spec()
    if spec.search is not None:
        # Without TensorFlow: the trials are processes of their own, and this one only waits for them.
        from app.training.search import search

        spec = search(job, settings, reporter, threads=threads)
    with process.tensorflow(job, reporter, threads):
        from app.training.pipeline import train

        return train(job, spec, settings, reporter, threads=threads)


def _store(job: JobFolder, result: JobResult) -> str:
    job.write_result(result)
    return f"{result.model} version {result.version}; {result.promotion_reason}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
