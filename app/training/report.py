"""The evaluation of a version as files: numbers as JSON, pictures as SVG, the worst mistakes as PNG."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from PIL import Image

from app.preprocessing import UInt8Array
from app.store.manifest import EVALUATION
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation
from app.training.figures import draw_confusion_matrix, draw_curves
from app.training.fit import Fitted

# Small pictures are enlarged to about this many pixels, each pixel staying a square.
_GALLERY_SIDE = 96


def write_evaluation(staged: Path, evaluation: Evaluation, fitted: Fitted, data: TrainingData) -> None:
    """Write `evaluation/` into a staged version: report.json, curves.svg, confusion_matrix.svg, mistakes/*.png."""
    folder = staged / EVALUATION
    (folder / "mistakes").mkdir(parents=True)
    pictures = []
    for rank, mistake in enumerate(evaluation.worst):
        name = f"mistakes/{rank:02d}.png"
        _write_picture(data.images[mistake.position], folder / name)
        pictures.append(name)
    report = report_document(evaluation, fitted, pictures)
    (folder / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    draw_curves(fitted.history, fitted.best_epoch, folder / "curves.svg")
    draw_confusion_matrix(evaluation.confusion, data.labels, evaluation.accuracy, folder / "confusion_matrix.svg")


def report_document(evaluation: Evaluation, fitted: Fitted, pictures: list[str]) -> dict[str, Any]:
    """`report.json`. Rows of `confusion_matrix` are true classes, columns predicted ones, in the order of `labels`."""
    supports = [scores.support for scores in evaluation.classes]
    total = sum(supports)

    def averages(weights: list[float]) -> dict[str, float]:
        weight = sum(weights)
        return {
            name: sum(getattr(scores, name) * share for scores, share in zip(evaluation.classes, weights, strict=True))
            / weight
            for name in ("precision", "recall", "f1")
        }

    return {
        "test": {
            "images": total,
            "loss": evaluation.loss,
            "accuracy": evaluation.accuracy,
            "mistakes": evaluation.mistakes,
            "macro_average": averages([1.0] * len(supports)),
            "weighted_average": averages([float(support) for support in supports]),
        },
        "labels": [scores.label for scores in evaluation.classes],
        "classes": [asdict(scores) for scores in evaluation.classes],
        "confusion_matrix": evaluation.confusion.tolist(),
        "worst_mistakes": [
            {
                "name": mistake.name,
                "label": mistake.label,
                "predicted": mistake.predicted,
                "probability": mistake.probability,
                "picture": picture,
            }
            for mistake, picture in zip(evaluation.worst, pictures, strict=True)
        ],
        "best_epoch": fitted.best_epoch,
        "epochs": [asdict(epoch) for epoch in fitted.history],
    }


def _write_picture(pixels: UInt8Array, path: Path) -> None:
    image = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    factor = max(1, _GALLERY_SIDE // max(image.size))
    image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST).save(path, optimize=True)
