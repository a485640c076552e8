"""What a report says of a result in words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.preprocessing import Float32Array
from app.store.datasets import Datasets
from app.store.manifest import PrecisionCheck
from app.training.calibration import Calibrated
from app.training.checkpoint import Epoch
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation, score
from app.training.findings import confusions, findings, headline
from app.training.fit import Fitted
from tests.training.conftest import prepared_job


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    _, data, _, _ = prepared_job(
        tmp_path_factory.mktemp("workspace"), shapes={"images": 900, "noise": 0.1}, splits={"test": 0.4}
    )
    return data


def _fitted(accuracy: float = 0.9, val_accuracy: float = 0.9) -> Fitted:
    epoch = Epoch(1, loss=0.3, accuracy=accuracy, val_loss=0.3, val_accuracy=val_accuracy, learning_rate=1, seconds=1)
    return Fitted(None, None, None, None, [epoch], best_epoch=1)  # type: ignore[arg-type]


def _evaluation(data: TrainingData, answers: Float32Array) -> Evaluation:
    calibrated = Calibrated(_fitted(), None, 1.3, 0.5, 90, loss_before=1, loss=0.9, ece_before=0.1, ece=0.05)
    return score(answers, answers, calibrated, data)


def _answers(data: TrainingData, wrong: int, sure: float = 0.9) -> Float32Array:
    """Answers to the test split; the first `wrong` images of class 0 are taken for class 1."""
    targets = data.targets[data.test].copy()
    targets[np.flatnonzero(targets == 0)[:wrong]] = 1
    answers = np.full((len(targets), 3), (1 - sure) / 2, np.float32)
    answers[np.arange(len(targets)), targets] = sure
    return answers


def _said(data: TrainingData, evaluation: Evaluation, fitted: Fitted | None = None, **checks: PrecisionCheck) -> str:
    return "\n".join(
        f"{finding.level}: {finding.text}" for finding in findings(evaluation, fitted or _fitted(), data, checks, None)
    )


def test_the_headline_has_the_interval(data: TrainingData) -> None:
    """The share of right answers, of how many, and where it may lie in truth."""
    evaluation = _evaluation(data, _answers(data, wrong=36))
    said = headline(evaluation)
    assert f"{evaluation.accuracy:.1%} of {len(data.test)} test images" in said
    assert f"{evaluation.interval.low:.1%} to {evaluation.interval.high:.1%}" in said


def test_a_class_that_is_mistaken_is_named(data: TrainingData) -> None:
    """With what it is taken for; a class far behind the others is a warning."""
    evaluation = _evaluation(data, _answers(data, wrong=60))
    first, second = data.labels[:2]
    (confusion,) = confusions(evaluation)
    assert (confusion.label, confusion.predicted, confusion.images) == (first, second, 60)
    said = _said(data, evaluation)
    assert f"warning: The weakest class is {first!r}" in said
    assert f"taken for {second!r}" in said
    assert "weakest" not in _said(data, _evaluation(data, _answers(data, wrong=0)))


def test_every_class_without_a_right_answer_is_named(data: TrainingData) -> None:
    """A warning, with how many there were of each and what they were taken for; and those hardly ever right after."""
    answers = np.roll(_answers(data, wrong=0), 1, axis=1)
    said = _said(data, _evaluation(data, answers))
    named = ", ".join(
        f"{label!r} (0 of {int((data.targets[data.test] == number).sum())}, taken for {other!r})"
        for number, (label, other) in enumerate(zip(data.labels, np.roll(data.labels, -1).tolist(), strict=True))
    )
    assert f"warning: Not one test image is recognised of {named}." in said
    assert "weakest" not in said
    support = int((data.targets[data.test] == 0).sum())
    said = _said(data, _evaluation(data, _answers(data, wrong=support - 5)))
    first, second = data.labels[:2]
    assert (
        f"warning: Seldom recognised, less than half as often as all test images: {first!r} (5 of {support}, " in said
    )
    assert f"taken for {second!r})." in said
    assert "Not one" not in said


def test_a_finding_sends_nobody_to_a_field_that_the_report_does_not_have(data: TrainingData) -> None:
    """A dataset's warning names fields of the dataset's report; here it says where else to look."""
    known = (
        Datasets(Path("none"))
        .report("digits")
        .model_copy(
            update={
                "name": "pets",
                "warnings": [
                    "Hardly any images in 'star': fewer than 10. See small_classes.",
                    "Images of an extreme size: 2. See extreme_sizes.",
                    "'cat': no usable image in there, hence no class. See the rejected files.",
                ],
            }
        )
    )
    evaluation = _evaluation(data, _answers(data, wrong=3))
    texts = [finding.text for finding in findings(evaluation, _fitted(), data, {}, known)]
    assert not [text for text in texts if "See " in text]
    assert (
        "The dataset: Hardly any images in 'star': fewer than 10. The table of the classes says how many each has."
        in texts
    )
    shown = "The command fovea datasets show pets names them."
    assert f"The dataset: Images of an extreme size: 2. {shown}" in texts
    assert f"The dataset: 'cat': no usable image in there, hence no class. {shown}" in texts


def test_what_is_no_better_than_guessing_is_called_so(data: TrainingData) -> None:
    """An accuracy whose interval holds that of the most frequent class is a warning."""
    answers = np.roll(_answers(data, wrong=0), 1, axis=1)
    assert "warning: It is not shown to be better than always answering" in _said(data, _evaluation(data, answers))
    assert "better than always" not in _said(data, _evaluation(data, _answers(data, wrong=3)))


def test_what_is_left_out_of_validation_is_a_warning(data: TrainingData) -> None:
    """What the split warns of stands before the reader of the result, too."""
    warned = replace(data, split=replace(data.split, warnings=("No image of 'star' is left to validate on.",)))
    said = _said(warned, _evaluation(warned, _answers(warned, wrong=0)))
    assert said.startswith("warning: No image of 'star' is left to validate on.\n")


def test_learning_by_heart_is_called_so(data: TrainingData) -> None:
    """Training accuracy far ahead of validation is a warning; a little ahead is none."""
    evaluation = _evaluation(data, _answers(data, wrong=3))
    assert "21 points ahead of validation" in _said(data, evaluation, _fitted(0.99, 0.78))
    assert "by heart" not in _said(data, evaluation, _fitted(0.95, 0.92))


@pytest.mark.parametrize(
    ("sure", "verdict"), [(0.9, "can be taken at their word"), (0.85, "roughly right"), (0.6, "not to be taken")]
)
def test_probabilities_are_judged_by_their_calibration_error(data: TrainingData, sure: float, verdict: str) -> None:
    """Nine of ten are right: who is 90 % sure is honest, who is 60 % sure is not."""
    answers = _answers(data, wrong=len(data.test) // 10, sure=sure)
    assert verdict in _said(data, _evaluation(data, answers))


def test_warnings_come_first(data: TrainingData) -> None:
    """A reader who stops after the first line has read the worst."""
    evaluation = _evaluation(data, _answers(data, wrong=60))
    levels = [finding.level for finding in findings(evaluation, _fitted(), data, {}, None)]
    assert levels == sorted(levels, key=["warning", "note", "good"].index)
    assert levels[0] == "warning"


def test_precisions_are_said_to_be_used_or_not(data: TrainingData) -> None:
    """What loses nothing is good; what loses a point is not used, and that is said."""
    evaluation = _evaluation(data, _answers(data, wrong=36))
    same = PrecisionCheck(accuracy=evaluation.accuracy, images=360, agreement=1, max_difference=0)
    worse = same.model_copy(update={"accuracy": evaluation.accuracy - 0.01})
    assert "good: In bf16 the accuracy changes by +0.00 points" in _said(data, evaluation, bf16=same)
    assert "it is not served in bf16" in _said(data, evaluation, bf16=worse)


def test_few_test_images_are_a_warning(data: TrainingData) -> None:
    """Of twelve images a single one is eight points."""
    few = replace(data, split=replace(data.split, test=data.test[:12]))
    said = _said(few, _evaluation(few, _answers(few, wrong=0)))
    assert "warning: The test split has 12 images: a single one is 8.3% of the accuracy" in said
