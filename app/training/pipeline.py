"""The steps of a training job, top to bottom."""

from __future__ import annotations

import time

from app.jobs.folder import CHECKPOINT, JobFolder, JobResult
from app.jobs.networks import WEIGHTS
from app.jobs.spec import TrainingSpec
from app.jobs.trials import SearchDocument
from app.settings import Settings
from app.store.datasets import Datasets
from app.store.registry import Registry
from app.training.calibration import calibrate
from app.training.dataset import prepare
from app.training.evaluate import evaluate
from app.training.export import find_version, register
from app.training.fit import fit
from app.training.precision import check_precisions
from app.training.promote import promote
from app.training.remaining import Afterwards, answers_afterwards
from app.training.report import Trained, write_evaluation
from app.training.reporter import Reporter

_FEW = 100


def train(job: JobFolder, spec: TrainingSpec, settings: Settings, reporter: Reporter, *, threads: int) -> JobResult:
    """What `spec` asks for, which is the job's own or what its search has chosen.

    dataset → split → fit → evaluate on the test split → export → register → promote if the policy says so.

    Until the export a job can be cancelled; from then on it only takes moments, and ends as succeeded or failed.
    """
    registry = Registry(settings.model_store)
    datasets = Datasets(settings.workspace / "datasets")
    data = prepare(
        spec,
        datasets,
        reporter,
        threads=threads,
        max_pixels=settings.max_pixels,
        decoded=settings.workspace / "decoded",
        max_decoded_bytes=settings.max_decoded_bytes,
    )
    version = find_version(registry, spec.model_name, job.id)
    afterwards = Afterwards(job.path.parent)
    fitted, begun = None, time.monotonic()
    if version is None:
        fitted = fit(
            spec,
            data,
            job.path / CHECKPOINT,
            reporter,
            weights_folder=settings.workspace / WEIGHTS,
            threads=threads,
            afterwards=afterwards,
        )
        begun = time.monotonic()
        calibrated = calibrate(fitted, data, reporter)
        fitted = calibrated.fitted
        reporter.phase("evaluate", _test_split(len(data.test)))
        evaluation = evaluate(calibrated, data, reporter)
        lowered = check_precisions(fitted.model, data, evaluation, spec, registry, reporter, threads)
        low, high = evaluation.interval.low, evaluation.interval.high
        reporter.phase("export", f"accuracy {evaluation.accuracy:.4f} ({low:.4f} to {high:.4f}) on the test split")
        searched = SearchDocument.of(job) if job.spec().search is not None else None
        trained = Trained(job.id, data, fitted, evaluation, lowered.checks, datasets.report(spec.dataset), searched)
        with registry.staging() as staged:
            write_evaluation(staged, trained)
            version = register(registry, staged, job.id, spec, data, fitted, evaluation, lowered.checks, lowered.int8)
        reporter.phase("register", f"{spec.model_name} version {version}")
    else:
        reporter.phase("register", f"an earlier attempt registered {spec.model_name} version {version}")
    outcome = promote(registry, spec, version, data, job.id, max_pixels=settings.max_pixels)
    reporter.phase("promote", outcome.reason)
    if fitted is not None and fitted.seconds_per_answer:
        answers = answers_afterwards(
            validation=len(data.validation),
            test=len(data.test),
            precisions=len(spec.precisions),
            mirrored=fitted.recipe.mirror_average,
        )
        afterwards.remember(time.monotonic() - begun, answers, fitted.seconds_per_answer)
    return JobResult(
        model=spec.model_name,
        version=version,
        metrics=registry.manifest(spec.model_name, version).metrics,
        promoted=outcome.promoted,
        promotion_reason=outcome.reason,
        decision=outcome.decision,
        warnings=list(data.split.warnings),
    )


def _test_split(images: int) -> str:
    """Says when the result will be coarse: the reader of a percentage does not see how few images it is of."""
    note = "" if images >= _FEW else f"; they are few: a single one is {1 / images:.1%} of the accuracy"
    return f"{images:,} images of the test split{note}"
