"""What a reader should make of an evaluation: a headline, and what is good or bad about it in sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.store.dataset_report import DatasetReport
from app.store.manifest import PrecisionCheck
from app.training.dataset import TrainingData
from app.training.evaluate import ClassScores, Evaluation
from app.training.fit import Fitted
from app.training.wording import listed

Level = Literal["good", "note", "warning"]

# Below so many test images, of all or of a class, a percentage is coarse.
_FEW, _FEW_OF_A_CLASS = 100, 10

# Expected calibration errors up to which probabilities can be taken at their word, or roughly so.
_CALIBRATED, _ROUGHLY = 0.03, 0.08

# How far training may be ahead of validation, in accuracy, before it has learned by heart.
_BY_HEART = 0.1

# A class of which less than this share of the accuracy is recognised is one that was hardly learned.
_SELDOM = 0.5

# Where a dataset's warning sends its reader on to a field of its own report, which this one does not have.
_SEE = re.compile(r" See (?:the )?(\w+)(?: files)?\.$")
# Of small classes there is a table here.
_SMALL_CLASSES = "small_classes"

_MOST_NAMED = 5
# Of classes that are hardly recognised all are named: whoever uses the model must know of them. A sentence has an end.
_MOST_MISSED = 100
_MOST_CONFUSIONS = 12


@dataclass(frozen=True)
class Finding:
    """A sentence for the reader."""

    level: Level
    text: str


@dataclass(frozen=True)
class Confusion:
    """`images` of class `label` were taken for `predicted`: this share of the class."""

    label: str
    predicted: str
    images: int
    share: float


def headline(evaluation: Evaluation) -> str:
    """The result in a sentence."""
    images = int(evaluation.confusion.sum())
    interval = evaluation.interval
    return (
        f"Right on {evaluation.accuracy:.1%} of {images:,} test images that it had not seen; "
        f"the 95% confidence interval is {interval.low:.1%} to {interval.high:.1%}."
    )


def confusions(evaluation: Evaluation) -> list[Confusion]:
    """The pairs of classes that are mixed up most often, the most frequent first."""
    matrix = evaluation.confusion.copy()
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:_MOST_CONFUSIONS]
    labels = [scores.label for scores in evaluation.classes]
    pairs = [(int(row), int(column)) for row, column in zip(*np.unravel_index(order, matrix.shape), strict=True)]
    return [
        Confusion(
            label=labels[row],
            predicted=labels[column],
            images=int(matrix[row, column]),
            share=int(matrix[row, column]) / evaluation.classes[row].support,
        )
        for row, column in pairs
        if matrix[row, column]
    ]


def findings(
    evaluation: Evaluation,
    fitted: Fitted,
    data: TrainingData,
    precisions: dict[str, PrecisionCheck],
    known: DatasetReport | None,
) -> list[Finding]:
    """What is to be said of a result, warnings first."""
    said = [
        *(Finding("warning", warning) for warning in data.split.warnings),
        *_of_the_test(evaluation, data),
        *_of_the_classes(evaluation),
        *_of_the_curves(fitted),
        *_of_the_probabilities(evaluation),
        *_of_the_precisions(evaluation, precisions),
        *(_of_the_dataset(known) if known else []),
    ]
    order: list[Level] = ["warning", "note", "good"]
    return sorted(said, key=lambda finding: order.index(finding.level))


def _of_the_test(evaluation: Evaluation, data: TrainingData) -> list[Finding]:
    images = len(data.test)
    said = []
    guess = int(np.bincount(data.targets[data.test], minlength=len(data.labels)).argmax())
    baseline = evaluation.classes[guess].support / images
    if evaluation.interval.low <= baseline:
        said.append(
            Finding(
                "warning",
                f"It is not shown to be better than always answering {data.labels[guess]!r}, which would be right on "
                f"{baseline:.1%}.",
            )
        )
    if images < _FEW:
        said.append(
            Finding(
                "warning",
                f"The test split has {images} images: a single one is {1 / images:.1%} of the accuracy. More images "
                "would tell more.",
            )
        )
    return said


def _of_the_classes(evaluation: Evaluation) -> list[Finding]:
    said = []
    missed = [scores for scores in evaluation.classes if scores.recall == 0]
    if missed:
        named = listed([_mistaken(scores, evaluation) for scores in missed], _MOST_MISSED)
        said.append(Finding("warning", f"Not one test image is recognised of {named}."))
    seldom = [scores for scores in evaluation.classes if 0 < scores.recall < _SELDOM * evaluation.accuracy]
    if seldom:
        seldom.sort(key=lambda scores: scores.recall)
        named = listed([_mistaken(scores, evaluation) for scores in seldom], _MOST_MISSED)
        said.append(Finding("warning", f"Seldom recognised, less than half as often as all test images: {named}."))
    # The one that is weak for certain: of a class of two images, both are soon missed.
    weakest = min(evaluation.classes, key=lambda scores: scores.recall_interval.high)
    if weakest.recall < evaluation.accuracy and weakest not in [*missed, *seldom]:
        level: Level = "warning" if _is_far_behind(weakest, evaluation) else "note"
        taken = _taken_for(weakest, evaluation)
        interval = weakest.recall_interval
        said.append(
            Finding(
                level,
                f"The weakest class is {weakest.label!r}: {weakest.recall:.1%} of its {weakest.support:,} test images "
                f"are recognised (between {interval.low:.1%} and {interval.high:.1%}){taken}.",
            )
        )
    few = [repr(scores.label) for scores in evaluation.classes if scores.support < _FEW_OF_A_CLASS]
    if few:
        said.append(
            Finding(
                "note",
                f"Fewer than {_FEW_OF_A_CLASS} test images: {listed(few, _MOST_NAMED)}. Their scores are coarse.",
            )
        )
    return said


def _mistaken(scores: ClassScores, evaluation: Evaluation) -> str:
    """A class, how many of its images are recognised, and what the others are taken for."""
    right = round(scores.recall * scores.support)
    return f"{scores.label!r} ({right:,} of {scores.support:,}{_taken_for(scores, evaluation)})"


def _taken_for(scores: ClassScores, evaluation: Evaluation) -> str:
    """The second half of a sentence on a class some of whose images are mistaken; empty where none is."""
    labels = [other.label for other in evaluation.classes]
    mistakes = evaluation.confusion[labels.index(scores.label)].copy()
    mistakes[labels.index(scores.label)] = 0
    if not mistakes.any():
        return ""
    often = "most often " if np.count_nonzero(mistakes) > 1 else ""
    return f", {often}taken for {labels[int(mistakes.argmax())]!r}"


def _is_far_behind(weakest: ClassScores, evaluation: Evaluation) -> bool:
    return weakest.recall_interval.high < evaluation.interval.low and weakest.recall < 0.8 * evaluation.accuracy


def _of_the_curves(fitted: Fitted) -> list[Finding]:
    chosen = fitted.history[fitted.best_epoch - 1]
    gap = chosen.accuracy - chosen.val_accuracy
    if gap <= _BY_HEART:
        return []
    return [
        Finding(
            "warning",
            f"Training accuracy is {100 * gap:.0f} points ahead of validation ({chosen.accuracy:.1%} against "
            f"{chosen.val_accuracy:.1%}): much was learned by heart. More images, more augmentation, dropout or weight "
            "decay would help.",
        )
    ]


def _of_the_probabilities(evaluation: Evaluation) -> list[Finding]:
    calibration, unknown = evaluation.calibration, evaluation.unknown
    changed = (
        f"{100 * calibration.ece:.1f} points off on average ({100 * calibration.ece_uncalibrated:.1f} before "
        f"calibration at temperature {calibration.temperature:.2f})"
    )
    if calibration.ece <= _CALIBRATED:
        said = [Finding("good", f"Its probabilities can be taken at their word: they are {changed}.")]
    elif calibration.ece <= _ROUGHLY:
        said = [Finding("note", f"Its probabilities are roughly right: {changed}.")]
    else:
        coarse = "; so few images measure it badly" if calibration.images < 5 * _FEW else ""
        said = [Finding("warning", f"Its probabilities are not to be taken at their word: {changed}{coarse}.")]
    if unknown.accuracy is not None:
        said.append(
            Finding(
                "note",
                f"Where no probability reaches {unknown.threshold:.2f} the answer is better taken as unknown: "
                f"{unknown.coverage:.1%} of the test images stay answered, {unknown.accuracy:.1%} of them rightly.",
            )
        )
    return said


def _of_the_precisions(evaluation: Evaluation, precisions: dict[str, PrecisionCheck]) -> list[Finding]:
    said = []
    for name, check in precisions.items():
        change = 100 * (check.accuracy - evaluation.accuracy)
        harmless = check.harmless(evaluation.accuracy)
        said.append(
            Finding(
                "good" if harmless else "note",
                f"In {name} the accuracy changes by {change:+.2f} points, and {check.agreement:.1%} of the images are "
                f"put in the same class: it is {'' if harmless else 'not '}served in {name}"
                f"{' where the processor gains by it' if harmless else ''}.",
            )
        )
    return said


def _of_the_dataset(known: DatasetReport) -> list[Finding]:
    def elsewhere(see: re.Match[str]) -> str:
        if see[1] == _SMALL_CLASSES:
            return " The table of the classes says how many each has."
        return f" The command fovea datasets show {known.name} names them."

    return [Finding("warning", f"The dataset: {_SEE.sub(elsewhere, warning)}") for warning in known.warnings]
