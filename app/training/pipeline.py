"""The steps of a training job, top to bottom."""

from __future__ import annotations

import time

from app.jobs.folder import CHECKPOINT, JobFolder, JobResult
from app.settings import Settings
from app.store.datasets import Datasets
from app.store.registry import Registry
from app.training.dataset import prepare
from app.training.evaluate import evaluate
from app.training.export import find_version, register
from app.training.fit import fit
from app.training.precision import check_bf16
from app.training.promote import promote
from app.training.remaining import Afterwards
from app.training.report import write_evaluation
from app.training.reporter import Reporter

_FEW = 100


def train(job: JobFolder, settings: Settings, reporter: Reporter, *, threads: int) -> JobResult:
    """dataset → split → fit → evaluate on the test split → export → register → promote if the policy says so.

    Until the export a job can be cancelled; from then on it only takes moments, and ends as succeeded or failed.
    """
    spec = job.spec()
    registry = Registry(settings.model_store)
    datasets = Datasets(settings.workspace / "datasets")
    data = prepare(spec, datasets, reporter, threads=threads, max_pixels=settings.max_pixels)
    version = find_version(registry, spec.model_name, job.id)
    afterwards = Afterwards(job.path.parent)
    fitted, begun = None, time.monotonic()
    if version is None:
        fitted = fit(
            spec,
            data,
            job.path / CHECKPOINT,
            reporter,
            weights_folder=settings.workspace / "weights",
            threads=threads,
            afterwards=afterwards,
        )
        begun = time.monotonic()
        reporter.phase("evaluate", _test_split(len(data.test)))
        evaluation = evaluate(fitted.model, data, reporter)
        bf16 = check_bf16(fitted.model, data, evaluation, registry, reporter, threads)
        reporter.phase("export", f"accuracy {evaluation.accuracy:.4f} on the test split")
        with registry.staging() as staged:
            write_evaluation(staged, evaluation, fitted, data)
            version = register(registry, staged, job.id, spec, data, fitted, evaluation, bf16)
        reporter.phase("register", f"{spec.model_name} version {version}")
    else:
        reporter.phase("register", f"an earlier attempt registered {spec.model_name} version {version}")
    promoted, reason = promote(registry, spec, version, data, job.id, max_pixels=settings.max_pixels)
    reporter.phase("promote", reason)
    if fitted is not None and fitted.seconds_per_answer:
        afterwards.remember(time.monotonic() - begun, len(data.test), fitted.seconds_per_answer)
    metrics = registry.manifest(spec.model_name, version).metrics
    return JobResult(
        model=spec.model_name, version=version, metrics=metrics, promoted=promoted, promotion_reason=reason
    )


def _test_split(images: int) -> str:
    """Says when the result will be coarse: the reader of a percentage does not see how few images it is of."""
    note = "" if images >= _FEW else f"; they are few: a single one is {1 / images:.1%} of the accuracy"
    return f"{images:,} images of the test split{note}"
