"""The evaluation of a version as files: one page to read, the same as JSON, and the pictures on their own."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.jobs.folder import now
from app.jobs.trials import SearchDocument
from app.store.dataset_report import DatasetReport
from app.store.manifest import EVALUATION, PrecisionCheck
from app.training.augmented_samples import augmented_samples
from app.training.dataset import TrainingData
from app.training.evaluate import ClassScores, Evaluation
from app.training.figures import draw_confusion_matrix, draw_curves, draw_reliability
from app.training.findings import confusions, findings, headline
from app.training.fit import Fitted
from app.training.page import page
from app.training.pictures import picture
from app.training.reliability import Bin
from app.training.search_report import search_pictures, search_section
from app.training.significance import Interval

PREVIEW = "augmentation.png"

FOUND = (
    "rejected_files",
    "duplicate_files",
    "conflicting_duplicates",
    "near_duplicate_files",
    "conflicting_near_duplicates",
    "cross_split_duplicates",
    "small_classes",
    "extreme_size_files",
    "case_twins",
)
"""Fields of a dataset's report that say what is odd about it: numbers, or lists that are counted here."""


@dataclass(frozen=True)
class Trained:
    """All that a report tells of. `known`: what the dataset says of itself. `searched`: how the recipe was found."""

    job_id: str
    data: TrainingData
    fitted: Fitted
    evaluation: Evaluation
    precisions: dict[str, PrecisionCheck]
    known: DatasetReport | None = None
    searched: SearchDocument | None = None


def write_evaluation(staged: Path, trained: Trained) -> None:
    """Write `evaluation/` into a staged version.

    report.html, report.json, curves.svg, reliability.svg, confusion_matrix.svg, augmentation.png, mistakes/*.png; of a
    job that searched also search.svg and, where they are known, importances.svg.
    """
    folder = staged / EVALUATION
    (folder / "mistakes").mkdir(parents=True)
    evaluation, fitted = trained.evaluation, trained.fitted
    pictures = {
        f"mistakes/{rank:02d}.png": picture(trained.data.images[mistake.position])
        for rank, mistake in enumerate(evaluation.worst)
    }
    samples = augmented_samples(trained.data, fitted.recipe.augmentation, fitted.recipe.seed)
    report = report_document(trained, list(pictures), samples.labels)
    pictures[PREVIEW] = samples.sheet
    for name, content in pictures.items():
        (folder / name).write_bytes(content)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(page(report, pictures), encoding="utf-8")
    for name, drawn in search_pictures(report["search"]).items():
        (folder / name).write_text(drawn, encoding="utf-8")
    draw_curves(fitted.history, fitted.best_epoch, folder / "curves.svg")
    draw_reliability(evaluation.diagram, evaluation.diagram_before, folder / "reliability.svg")
    draw_confusion_matrix(
        evaluation.confusion, trained.data.labels, evaluation.accuracy, folder / "confusion_matrix.svg"
    )


def report_document(trained: Trained, pictures: list[str], preview_labels: list[str]) -> dict[str, Any]:
    """`report.json`, all that the page shows; shares are in [0, 1], intervals of 95 % as [low, high].

    `pictures`: names of those of the worst mistakes. `preview_labels`: of the rows of the augmentation's preview.

    Rows of `confusion_matrix` are true classes, columns predicted ones, in the order of `labels`.
    """
    evaluation, fitted, data = trained.evaluation, trained.fitted, trained.data
    calibrated = evaluation.calibrated
    chosen = fitted.history[fitted.best_epoch - 1]
    return {
        "model": fitted.recipe.model_name,
        "created_at": now().isoformat(timespec="seconds"),
        "created_by": f"training job {trained.job_id}",
        "headline": headline(evaluation),
        "findings": [
            asdict(finding) for finding in findings(evaluation, fitted, data, trained.precisions, trained.known)
        ],
        "test": {
            "images": len(data.test),
            "loss": evaluation.loss,
            "accuracy": evaluation.accuracy,
            "accuracy_interval": _ends(evaluation.interval),
            "mistakes": evaluation.mistakes,
            "macro_average": _averages(evaluation.classes, [1.0] * len(data.labels)),
            "weighted_average": _averages(evaluation.classes, [float(c.support) for c in evaluation.classes]),
            "calibration": {
                "ece": evaluation.calibration.ece,
                "bins": _bins(evaluation.diagram),
                "before": {
                    "ece": evaluation.calibration.ece_uncalibrated,
                    "bins": _bins(evaluation.diagram_before),
                },
            },
        },
        "validation": {
            "images": calibrated.images,
            "accuracy": chosen.val_accuracy,
            "calibration": {
                "temperature": calibrated.temperature,
                "loss": calibrated.loss,
                "ece": calibrated.ece,
                "before": {"loss": calibrated.loss_before, "ece": calibrated.ece_before},
            },
        },
        "unknown": evaluation.unknown.model_dump(mode="json"),
        "labels": data.labels,
        "classes": [
            asdict(scores) | {"recall_interval": _ends(scores.recall_interval)} for scores in evaluation.classes
        ],
        "confusion_matrix": evaluation.confusion.tolist(),
        "confusions": [asdict(confusion) for confusion in confusions(evaluation)],
        "worst_mistakes": [
            {
                "name": mistake.name,
                "label": mistake.label,
                "predicted": mistake.predicted,
                "probability": mistake.probability,
                "picture": name,
            }
            for mistake, name in zip(evaluation.worst, pictures, strict=True)
        ],
        "augmentation_preview": PREVIEW,
        "augmentation_preview_labels": preview_labels,
        "best_epoch": fitted.best_epoch,
        "epochs": [asdict(epoch) for epoch in fitted.history],
        "network": {"name": fitted.recipe.architecture.name, "parameters": fitted.model.count_params()},
        "precisions": {
            name: check.model_dump(mode="json") | {"harmless": check.harmless(evaluation.accuracy)}
            for name, check in trained.precisions.items()
        },
        "data": _data(trained),
        "search": search_section(trained.searched) if trained.searched is not None else None,
        "spec": fitted.recipe.model_dump(mode="json"),
    }


def _data(trained: Trained) -> dict[str, Any]:
    data, known = trained.data, trained.known
    fingerprint = data.fingerprint()
    count = len(data.labels)
    sides = {"train": data.train, "validation": data.validation, "test": data.test}
    return {
        "dataset": fingerprint.dataset,
        "sha256": fingerprint.sha256,
        "images": sum(map(len, sides.values())),
        "counts": fingerprint.counts,
        "classes": {
            side: np.bincount(data.targets[positions], minlength=count).tolist() for side, positions in sides.items()
        },
        "preprocessing": data.preprocessing.model_dump(mode="json"),
        **_found(trained),
        "kept_together": {"images": data.split.repeated, "groups": data.split.groups},
        "warnings": known.warnings if known else [],
    }


def _found(trained: Trained) -> dict[str, int]:
    """How much of each kind that is odd was found in the dataset, under the names of its own report.

    Copies are counted here: of a built-in dataset, made for the job, its own report does not know them.
    """
    known, contents = trained.known, trained.data.source.contents
    found = {name: getattr(known, name) if known else 0 for name in FOUND}
    found["duplicate_files"] = len(contents) - len(set(contents))
    return {name: what if isinstance(what, int) else len(what) for name, what in found.items()}


def _averages(classes: list[ClassScores], weights: list[float]) -> dict[str, float]:
    return {
        name: sum(getattr(scores, name) * weight for scores, weight in zip(classes, weights, strict=True))
        / sum(weights)
        for name in ("precision", "recall", "f1")
    }


def _ends(interval: Interval) -> list[float]:
    return [interval.low, interval.high]


def _bins(diagram: list[Bin]) -> list[dict[str, Any]]:
    return [asdict(bin_) | {"interval": _ends(bin_.interval)} for bin_ in diagram]
