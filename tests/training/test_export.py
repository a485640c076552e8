"""From a trained network to a version in the store, and whether that version goes live."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from app.jobs.folder import JobFolder
from app.jobs.spec import TrainingSpec
from app.openvino_import import import_openvino
from app.store.manifest import EVALUATION, GOLDEN, LITERT, PrecisionCheck
from app.store.registry import Registry
from app.training import precision
from app.training.architectures import predict
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation, evaluate
from app.training.export import find_version, register
from app.training.figures import draw_confusion_matrix
from app.training.fit import Fitted, fit
from app.training.precision import check_bf16, compare
from app.training.promote import promote
from app.training.report import write_evaluation
from app.training.reporter import Cancelled, Reporter
from tests.training.conftest import prepared_job

SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Exported:
    registry: Registry
    version: int
    spec: TrainingSpec
    data: TrainingData
    fitted: Fitted
    evaluation: Evaluation
    job: JobFolder


def _export(registry: Registry, workspace: Path, **fields: Any) -> Exported:
    """Train and register a tiny version."""
    spec, data, reporter, job = prepared_job(workspace, **fields)
    fitted = fit(spec, data, job.path / "checkpoint", reporter)
    evaluation = evaluate(fitted.model, data, reporter)
    bf16 = check_bf16(fitted.model, data, evaluation, registry, reporter, 1)
    with registry.staging() as staged:
        write_evaluation(staged, evaluation, fitted, data)
        version = register(registry, staged, job.id, spec, data, fitted, evaluation, bf16)
    return Exported(registry, version, spec, data, fitted, evaluation, job)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A version that learned something."""
    folder = tmp_path_factory.mktemp("good")
    return _export(Registry(folder / "store"), folder / "workspace", epochs=3)


def test_a_version_is_complete_and_answers_as_the_network_does(good: Exported) -> None:
    """The SavedModel takes uint8 `image`, answers `probabilities` like the trained network; all else is beside it."""
    registry, version, data, fitted, job = good.registry, good.version, good.data, good.fitted, good.job
    folder = registry.folder("shapes", version)
    manifest = registry.verify("shapes", version)

    served = tf.saved_model.load(str(folder)).signatures["serving_default"]
    images = data.images[data.test]
    answers = served(image=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(answers, predict(fitted.model, images), atol=1e-6)
    assert (answers.argmax(axis=1) == data.targets[data.test]).mean() == good.evaluation.accuracy

    assert manifest.labels == ["diagonal", "horizontal", "vertical"]
    assert (manifest.input.name, manifest.input.dtype, manifest.input.shape) == ("image", "uint8", (-1, 28, 28, 1))
    assert manifest.preprocessing == data.preprocessing
    assert manifest.metrics["accuracy"] == good.evaluation.accuracy
    assert manifest.data is not None
    assert manifest.data.counts == {
        "train": len(data.train),
        "validation": len(data.validation),
        "test": len(data.test),
    }
    assert manifest.training_spec is not None
    assert manifest.training_spec == fitted.recipe.model_dump(mode="json")
    assert manifest.training_spec["architecture"]["name"] == "simple_cnn"
    assert manifest.training_spec["learning_rate"] == 0.001
    assert manifest.normalization is not None
    assert manifest.normalization.mean == pytest.approx((data.images[data.train].mean(),))
    assert manifest.normalization.deviation == pytest.approx((data.images[data.train].std(),))
    assert len(manifest.golden.images) == 3
    assert (folder / GOLDEN / "expected.npz").exists()
    assert find_version(registry, "shapes", job.id) == version
    assert find_version(registry, "shapes", "another-job") is None


def test_the_version_carries_the_same_network_for_litert(good: Exported) -> None:
    """`model.tflite` is among its hashed files, and a server with LiteRT answers as the network does."""
    folder = good.registry.folder("shapes", good.version)
    manifest = good.registry.manifest("shapes", good.version)
    assert LITERT in manifest.files
    interpreter = Interpreter(model_path=str(folder / LITERT))
    images = good.data.images[good.data.test]
    (entry,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(entry["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(entry["index"], images)
    interpreter.invoke()
    answers = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(answers, good.evaluation.probabilities, atol=1e-5)


def test_what_bf16_costs_is_measured_on_the_test_split(good: Exported) -> None:
    """Where the processor computes in it; else the manifest says nothing, and the log why."""
    manifest = good.registry.manifest("shapes", good.version)
    if "bf16" not in manifest.precisions:
        assert "BF16" not in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        return
    check = manifest.precisions["bf16"]
    assert check.images == len(good.data.test)
    assert 0 < check.max_difference < 0.1
    assert manifest.allows("bf16") is check.harmless(good.evaluation.accuracy)


def test_a_failure_while_bf16_is_measured_costs_no_version(
    good: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of training are not lost to an engine; nor to its answers where they are no numbers."""
    full = good.evaluation.probabilities
    reporter = Reporter(good.job, attempt=1)

    def check(answers: Callable[..., Any]) -> PrecisionCheck | None:
        monkeypatch.setattr(precision, "_answers", answers)
        return check_bf16(good.fitted.model, good.data, good.evaluation, good.registry, reporter, 1)

    def fail(*_: object) -> None:
        raise RuntimeError("no primitive")

    def cancel(*_: object) -> None:
        raise Cancelled

    assert check(fail) is None
    assert "bf16 is not measured: OpenVINO fails (RuntimeError: no primitive)" in capsys.readouterr().out
    assert check(lambda *_: np.full_like(full, np.nan)) is None
    assert "not finite" in capsys.readouterr().out
    assert check(lambda *_: full) is not None
    with pytest.raises(Cancelled):
        check(cancel)


def test_precisions_are_compared_image_by_image(good: Exported) -> None:
    """A wrong answer that is right in the other precision makes them disagree, though the accuracy stays."""
    full = good.evaluation.probabilities
    same = compare(full, full, good.data)
    assert (same.accuracy, same.agreement, same.max_difference) == (good.evaluation.accuracy, 1, 0)
    lower = full.copy()
    lower[0] = np.roll(lower[0], 1)
    other = compare(lower, full, good.data)
    assert other.agreement == pytest.approx(1 - 1 / len(full))
    assert other.max_difference == pytest.approx(np.abs(lower[0] - full[0]).max())


def test_the_report_agrees_with_itself(good: Exported) -> None:
    """Accuracy, confusion matrix and per-class scores of report.json are one and the same result."""
    data = good.data
    folder = good.registry.folder("shapes", good.version) / EVALUATION
    report = json.loads((folder / "report.json").read_text())
    matrix = np.array(report["confusion_matrix"])
    assert matrix.sum() == report["test"]["images"] == len(data.test)
    assert report["test"]["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    assert report["test"]["mistakes"] == matrix.sum() - np.trace(matrix) == len(report["worst_mistakes"])
    for index, scores in enumerate(report["classes"]):
        assert scores["support"] == matrix[index].sum()
        assert scores["recall"] == pytest.approx(matrix[index, index] / matrix[index].sum())
    for mistake in report["worst_mistakes"]:
        assert mistake["label"] != mistake["predicted"]
        assert (folder / mistake["picture"]).read_bytes().startswith(b"\x89PNG")


def test_the_pictures_are_drawn_with_titles_and_labels(good: Exported) -> None:
    """curves.svg and confusion_matrix.svg are SVG with their text as text."""
    folder = good.registry.folder("shapes", good.version) / EVALUATION
    for name, words in {"curves.svg": {"Loss", "Accuracy", "Epoch"}, "confusion_matrix.svg": {"vertical"}}.items():
        texts = {"".join(text.itertext()).strip() for text in ElementTree.parse(folder / name).iter(f"{SVG}text")}
        assert words <= texts


def test_labels_are_drawn_as_they_are(tmp_path: Path) -> None:
    """A label that looks like markup or mathematics is neither."""
    labels = ["<script>alert(1)</script>", "$x^2$", "100 %"]
    draw_confusion_matrix(np.eye(3, dtype=np.int64), labels, 1.0, tmp_path / "matrix.svg")
    root = ElementTree.parse(tmp_path / "matrix.svg")
    texts = {"".join(text.itertext()) for text in root.iter(f"{SVG}text")}
    assert "$x^2$" in texts
    assert not list(root.iter(f"{SVG}script"))


def test_the_promotion_policy_is_obeyed(good: Exported, tmp_path: Path) -> None:
    """manual leaves the log alone; if_better promotes the first, and afterwards only what is not worse."""
    registry, version = good.registry, good.version

    def decide(policy: str, number: int) -> tuple[bool, str]:
        spec = good.spec.model_copy(update={"promotion": policy})
        return promote(registry, spec, number, good.data, "job", max_pixels=10_000)

    assert decide("manual", version)[0] is False
    assert registry.production("shapes") is None
    promoted, reason = decide("if_better", version)
    assert promoted
    assert "no production version to beat" in reason
    accuracy = registry.manifest("shapes", version).metrics["accuracy"]

    worse = _export(registry, tmp_path, epochs=1, learning_rate=1e-6)
    assert worse.evaluation.accuracy < accuracy
    promoted, reason = decide("if_better", worse.version)
    assert not promoted
    assert f"accuracy {worse.evaluation.accuracy:.4f} against" in reason
    assert decide("always", worse.version)[0]
    production = registry.production("shapes")
    assert production is not None
    assert production.version == worse.version
    promoted, reason = decide("if_better", version)
    assert promoted
    assert f"accuracy {accuracy:.4f} against" in reason
