"""How good a trained network is on the test split, measured once."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras
import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from app.preprocessing import Float32Array
from app.training.architectures import predict
from app.training.dataset import TrainingData
from app.training.reporter import Reporter
from app.training.sources import Targets

# Mistakes that the report shows.
_WORST = 24

_CHUNK = 1024


@dataclass(frozen=True)
class ClassScores:
    """One row of a classification report."""

    label: str
    precision: float
    recall: float
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
    classes: list[ClassScores]
    confusion: npt.NDArray[np.int64]
    mistakes: int
    worst: list[Mistake]
    probabilities: Float32Array = field(repr=False)
    """float32 [n, classes], in the order of the test split."""


def evaluate(model: keras.Model, data: TrainingData, reporter: Reporter) -> Evaluation:
    """Answer the test split with `model`, and score the answers.

    Raises:
        Cancelled: the job was asked to stop.
    """
    answers = []
    for start in range(0, len(data.test), _CHUNK):
        answers.append(predict(model, data.images[data.test[start : start + _CHUNK]]))
        reporter.check_cancelled()
    return score(np.concatenate(answers), data)


def score(probabilities: Float32Array, data: TrainingData) -> Evaluation:
    """Score probabilities float32 [n, classes], one row for each image of the test split, in its order."""
    labels, targets = data.labels, data.targets[data.test]
    everything = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, predicted, labels=everything, zero_division=0.0
    )
    return Evaluation(
        loss=_cross_entropy(probabilities, targets),
        accuracy=float((predicted == targets).mean()),
        classes=[
            ClassScores(label, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, label in enumerate(labels)
        ],
        confusion=confusion_matrix(targets, predicted, labels=everything),
        mistakes=int((predicted != targets).sum()),
        worst=_worst(probabilities, predicted, targets, data),
        probabilities=probabilities,
    )


def _cross_entropy(probabilities: Float32Array, targets: Targets) -> float:
    """Mean of -log of the true class's probability; what float32 rounds to zero counts as its smallest number."""
    given = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return float(-np.log(np.maximum(given, np.finfo(np.float32).tiny)).mean())


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
