"""How good a trained network is on the test split, when nothing about it is left to be chosen."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from app.preprocessing import Float32Array
from app.store.manifest import Calibration, UnknownThreshold
from app.training.answers import answer, cross_entropy
from app.training.calibration import Calibrated
from app.training.dataset import TrainingData
from app.training.reliability import Bin, expected_calibration_error, reliability
from app.training.reporter import Reporter
from app.training.significance import Interval, wilson
from app.training.sources import Targets

# Mistakes that the report shows.
_WORST = 24


@dataclass(frozen=True)
class ClassScores:
    """One row of a classification report; `recall_interval` has the recall in it in 95 of 100 cases."""

    label: str
    precision: float
    recall: float
    recall_interval: Interval
    f1: float
    support: int


@dataclass(frozen=True)
class Mistake:
    """A test image that was put into the wrong class; `position` counts in the whole dataset."""

    position: int
    name: str
    label: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Evaluation:
    """Results on the test split. `confusion[i, j]`: images of class i that were taken for class j."""

    loss: float
    accuracy: float
    interval: Interval
    """In 95 of 100 cases the accuracy on endless such images is in it."""
    classes: list[ClassScores]
    confusion: npt.NDArray[np.int64]
    mistakes: int
    worst: list[Mistake]
    calibrated: Calibrated
    calibration: Calibration
    diagram: list[Bin]
    diagram_before: list[Bin]
    """The same network at temperature 1."""
    unknown: UnknownThreshold
    probabilities: Float32Array = field(repr=False)
    """float32 [n, classes], in the order of the test split."""


def evaluate(calibrated: Calibrated, data: TrainingData, reporter: Reporter) -> Evaluation:
    """Answer the test split, and score the answers.

    Nothing is chosen by it: temperature and threshold come from the validation split.

    Raises:
        Cancelled: the job was asked to stop.
    """
    probabilities = answer(calibrated.fitted.model, data, data.test, reporter)
    before = answer(calibrated.uncalibrated, data, data.test, reporter)
    return score(probabilities, before, calibrated, data)


def score(probabilities: Float32Array, before: Float32Array, calibrated: Calibrated, data: TrainingData) -> Evaluation:
    """Score probabilities float32 [n, classes], one row for each image of the test split, in its order.

    `before`: the same, not calibrated.
    """
    labels, targets = data.labels, data.targets[data.test]
    everything = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    right = predicted == targets
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=everything, zero_division=0.0
    )
    confusion = confusion_matrix(targets, predicted, labels=everything)
    diagram, diagram_before = reliability(probabilities, targets), reliability(before, targets)
    return Evaluation(
        loss=cross_entropy(probabilities, targets),
        accuracy=float(right.mean()),
        interval=wilson(int(right.sum()), len(right)),
        classes=[
            ClassScores(
                label=label,
                precision=float(precision[i]),
                recall=float(recall[i]),
                recall_interval=wilson(int(confusion[i, i]), int(support[i])),
                f1=float(f1[i]),
                support=int(support[i]),
            )
            for i, label in enumerate(labels)
        ],
        confusion=confusion,
        mistakes=int((~right).sum()),
        worst=_worst(probabilities, predicted, targets, data),
        calibrated=calibrated,
        calibration=Calibration(
            temperature=calibrated.temperature,
            fitted_on=calibrated.images,
            ece=expected_calibration_error(diagram),
            ece_uncalibrated=expected_calibration_error(diagram_before),
            images=len(right),
        ),
        diagram=diagram,
        diagram_before=diagram_before,
        unknown=_unknown(probabilities, right, calibrated.unknown_below),
        probabilities=probabilities,
    )


def _unknown(probabilities: Float32Array, right: npt.NDArray[np.bool_], threshold: float) -> UnknownThreshold:
    known = probabilities.max(axis=1) >= threshold
    return UnknownThreshold(
        threshold=threshold,
        coverage=float(known.mean()),
        accuracy=float(right[known].mean()) if known.any() else None,
        images=len(right),
    )


def _worst(
    probabilities: Float32Array, predicted: npt.NDArray[np.int64], targets: Targets, data: TrainingData
) -> list[Mistake]:
    """The mistakes that the model was surest of, the surest first."""
    wrong = np.flatnonzero(predicted != targets)
    surest = wrong[np.argsort(-probabilities[wrong, predicted[wrong]], kind="stable")][:_WORST]
    return [
        Mistake(
            position=int(data.test[row]),
            name=data.source.names[data.test[row]],
            label=data.labels[targets[row]],
            predicted=data.labels[predicted[row]],
            probability=float(probabilities[row, predicted[row]]),
        )
        for row in surest
    ]
