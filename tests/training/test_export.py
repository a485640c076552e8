"""From a trained network to a version in the store, and whether that version goes live."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from app.errors import StorageFailed
from app.instructions import multiplies_int8
from app.jobs.folder import JobFolder
from app.jobs.networks import SimpleCNN
from app.jobs.spec import TrainingSpec
from app.openvino_import import import_openvino
from app.preprocessing import Preprocessing
from app.serving.runtimes.compiled_models import CompiledModels
from app.serving.runtimes.loading import load_openvino
from app.store.builtin import builtin_reports
from app.store.dataset_report import SmallClass
from app.store.manifest import EVALUATION, GOLDEN, INT8, LITERT, TRAINED_ON, Promotion
from app.store.registry import Registry
from app.training import precision
from app.training.answers import cross_entropy
from app.training.architectures import build, finish, predict
from app.training.calibration import calibrate, probabilities
from app.training.checkpoint import Epoch
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation, evaluate
from app.training.export import find_version, golden_rows, register
from app.training.figures import draw_confusion_matrix
from app.training.fit import Fitted, fit
from app.training.membership import among, read_trained_on
from app.training.normalization import choose_normalization
from app.training.precision import Lowered, check_precisions, compare
from app.training.promote import Outcome, promote
from app.training.quantization import Int8Network
from app.training.recipes import choose
from app.training.report import FOUND, Trained, report_document, write_evaluation
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
    return _register(registry, spec, data, fit(spec, data, job.path / "checkpoint", reporter), reporter, job)


def _export_untrained(registry: Registry, workspace: Path, **fields: Any) -> Exported:
    """Register a tiny version that learned nothing, which is sooner done."""
    spec, data, reporter, job = prepared_job(workspace, **fields)
    return _register(registry, spec, data, _untrained(spec, data), reporter, job)


def _untrained(spec: TrainingSpec, data: TrainingData) -> Fitted:
    tiny = spec.model_copy(update={"architecture": SimpleCNN(filters=(4,), dense_units=0)})
    counts = {"images": len(data.train), "total": len(data.targets)}
    recipe = choose(tiny, **counts, labels=data.labels, preprocessing=data.preprocessing, bf16=False)
    scale = choose_normalization("0..1", [], data.preprocessing.channels)
    network = build(recipe.architecture, data.preprocessing, scale, len(data.labels), seed=0)
    epoch = Epoch(1, loss=1.0, accuracy=0.3, val_loss=1.0, val_accuracy=0.3, learning_rate=0.1, seconds=1.0)
    model = finish(network, mirrored=recipe.mirror_average)
    return Fitted(model, network, recipe, scale, [epoch], best_epoch=1)


def _register(
    registry: Registry, spec: TrainingSpec, data: TrainingData, fitted: Fitted, reporter: Reporter, job: JobFolder
) -> Exported:
    calibrated = calibrate(fitted, data, reporter)
    fitted = calibrated.fitted
    evaluation = evaluate(calibrated, data, reporter)
    lowered = check_precisions(fitted.model, data, evaluation, spec, registry, reporter, 1)
    with registry.staging() as staged:
        write_evaluation(staged, Trained(job.id, data, fitted, evaluation, lowered.checks))
        version = register(registry, staged, job.id, spec, data, fitted, evaluation, lowered.checks, lowered.int8)
    return Exported(registry, version, spec, data, fitted, evaluation, job)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A version that learned something."""
    folder = tmp_path_factory.mktemp("good")
    lower = ["bf16", "int8"]
    return _export(Registry(folder / "store"), folder / "workspace", epochs=12, precisions=lower, precision_loss=5)


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


@pytest.mark.parametrize("name", ["bf16", "int8"])
def test_what_a_lower_precision_costs_is_measured_on_the_test_split(
    good: Exported, name: Literal["bf16", "int8"]
) -> None:
    """Where the processor computes in it; else the manifest says nothing, and the log why."""
    manifest = good.registry.manifest("shapes", good.version)
    if name not in manifest.precisions:
        assert not _computes(name)
        return
    check = manifest.precisions[name]
    assert check.images == len(good.data.test)
    assert 0 < check.max_difference < 0.1
    assert manifest.allows(name) is check.harmless(good.evaluation.accuracy)
    assert check.bound == 0.05
    assert check.images_per_second is not None
    assert check.f32_images_per_second is not None
    report = json.loads((good.registry.folder("shapes", good.version) / EVALUATION / "report.json").read_text())
    assert report["precisions"][name]["images_per_second"] == check.images_per_second


def _computes(name: Literal["bf16", "int8"]) -> bool:
    if name == "int8":
        return multiplies_int8()
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_the_quantized_network_is_a_version_s_own_file_and_is_served(good: Exported, tmp_path: Path) -> None:
    """Both of its files are hashed, are a fraction of the size, and answer as they did when they were measured; what is
    kept of the f32 one on disk is not taken for it.
    """
    manifest = good.registry.verify("shapes", good.version)
    if not _computes("int8"):
        assert INT8 not in manifest.files
        return
    assert {INT8, "int8/model.bin"} <= manifest.files.keys()
    folder = good.registry.folder("shapes", good.version)
    (weights,) = folder.glob("variables/variables.data-*")
    assert (folder / INT8).with_suffix(".bin").stat().st_size < 0.6 * weights.stat().st_size
    compiled = CompiledModels(tmp_path / "compiled")
    load_openvino(folder, manifest, lanes=1, threads=1, compiled=compiled).close()
    runtime = load_openvino(folder, manifest, lanes=1, threads=1, precision="int8", compiled=compiled)
    answers = runtime.predict(good.data.images[good.data.test])
    runtime.close()
    check = manifest.precisions["int8"]
    assert runtime.name == "openvino-int8"
    assert np.abs(answers - good.evaluation.probabilities).max() == pytest.approx(check.max_difference, abs=2e-5)
    assert (answers.argmax(axis=1) == good.data.targets[good.data.test]).mean() == check.accuracy


def test_a_failure_while_a_precision_is_measured_costs_no_version(
    good: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hours of training are not lost to an engine; nor to its answers where they are no numbers."""
    full = good.evaluation.probabilities
    wrong = np.roll(full, 1, axis=1)
    network = Int8Network(b"graph", b"weights")
    reporter = Reporter(good.job, attempt=1)

    def check(measure: Callable[[str], Any]) -> Lowered:
        monkeypatch.setattr(precision._Engine, "measure", lambda _, name: measure(name))
        return check_precisions(good.fitted.model, good.data, good.evaluation, good.spec, good.registry, reporter, 1)

    def fail(_: str) -> None:
        raise RuntimeError("no primitive")

    assert check(fail) == Lowered({})
    assert "bf16 is not measured: OpenVINO fails (RuntimeError: no primitive)" in capsys.readouterr().out
    assert check(lambda _: (np.full_like(full, np.nan), (2.0, 1.0), network)) == Lowered({})
    assert "int8 does not do: some of its answers are not finite" in capsys.readouterr().out
    harmful = check(lambda _: (wrong, (2.0, 1.0), network))
    assert harmful.checks.keys() == {"bf16", "int8"}
    assert harmful.int8 is None
    assert "2.0 times as fast: not harmless" in capsys.readouterr().out
    harmless = check(lambda name: (full, (2.0, 1.0), network if name == "int8" else None))
    assert (harmless.checks["int8"].images_per_second, harmless.int8) == (2.0, network)
    far = full.copy()
    far[golden_rows(good.data)] = full[golden_rows(good.data)] * 0.6 + 0.4 / 3
    assert check(lambda _: (far, (2.0, 1.0), network)).int8 is None
    assert "int8 is not stored" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (Cancelled(), Cancelled),
        (OSError(28, "No space left on device"), StorageFailed),
        (OSError(12, "Cannot allocate memory"), OSError),
        (MemoryError(), MemoryError),
    ],
    ids=["cancelled", "full disk", "no memory for the system", "no memory"],
)
def test_what_ends_a_job_is_no_failure_of_the_engine(
    good: Exported, monkeypatch: pytest.MonkeyPatch, error: Exception, told: type[Exception]
) -> None:
    """Cancelling, a full disk and want of memory end it with their own reasons."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(precision._Engine, "measure", fail)
    reporter = Reporter(good.job, attempt=1)
    with pytest.raises(told):
        check_precisions(good.fitted.model, good.data, good.evaluation, good.spec, good.registry, reporter, 1)


def test_without_the_engine_there_is_a_version_in_f32(
    good: Exported, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the trainer alone brings is enough."""
    monkeypatch.setattr(precision, "find_spec", lambda _: None)
    reporter = Reporter(good.job, attempt=1)
    found = check_precisions(good.fitted.model, good.data, good.evaluation, good.spec, good.registry, reporter, 1)
    assert found == Lowered({})
    assert "int8 is not measured: OpenVINO is not installed" in capsys.readouterr().out


def test_precisions_are_compared_image_by_image(good: Exported) -> None:
    """A wrong answer that is right in the other precision makes them disagree, though the accuracy stays."""
    full = good.evaluation.probabilities
    same = compare(full, full, good.data, bound=0.001)
    assert (same.accuracy, same.agreement, same.max_difference) == (good.evaluation.accuracy, 1, 0)
    lower = full.copy()
    lower[0] = np.roll(lower[0], 1)
    other = compare(lower, full, good.data, bound=0.001)
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
    expected = {
        "curves.svg": {"Loss", "Accuracy", "Epoch"},
        "confusion_matrix.svg": {"vertical"},
        "reliability.svg": {"Highest probability", "Calibrated"},
    }
    for name, words in expected.items():
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


def test_accuracy_calibration_and_threshold_are_stored_with_the_version(good: Exported) -> None:
    """The manifest has the interval around the accuracy, the temperature, and the threshold of `unknown`."""
    manifest, evaluation = good.registry.manifest("shapes", good.version), good.evaluation
    metrics = manifest.metrics
    assert metrics["accuracy_low"] < metrics["accuracy"] <= metrics["accuracy_high"]
    assert manifest.calibration == evaluation.calibration
    assert manifest.unknown == evaluation.unknown
    highest = evaluation.probabilities.max(axis=1)
    assert manifest.unknown is not None
    assert manifest.unknown.coverage == (highest >= manifest.unknown.threshold).mean()


def test_the_temperature_is_inside_of_the_exported_graph(good: Exported) -> None:
    """What the SavedModel answers is the softmax of the logits divided by the stored temperature."""
    manifest = good.registry.manifest("shapes", good.version)
    assert manifest.calibration is not None
    assert manifest.calibration.temperature != 1
    images = good.data.images[good.data.test]
    logits = predict(good.fitted.network, images)
    served = tf.saved_model.load(str(good.registry.folder("shapes", good.version))).signatures["serving_default"]
    answers = served(image=tf.constant(images))["probabilities"].numpy()
    np.testing.assert_allclose(answers, probabilities(logits[None], manifest.calibration.temperature), atol=1e-5)


def test_a_mirrored_network_is_calibrated_too(tmp_path: Path) -> None:
    """The mean over an image and its mirror image is what the temperature is fitted to, and what is exported."""
    spec, data, reporter, _ = prepared_job(tmp_path, mirror_average=True)
    fitted = _untrained(spec, data)
    calibrated = calibrate(fitted, data, reporter)
    images = data.images[data.validation]
    views = np.stack([predict(fitted.network, images), predict(fitted.network, images[:, :, ::-1])])
    expected = probabilities(views, calibrated.temperature)
    np.testing.assert_allclose(predict(calibrated.fitted.model, images), expected, atol=1e-5)
    assert calibrated.loss <= calibrated.loss_before
    assert calibrated.loss == pytest.approx(cross_entropy(expected, data.targets[data.validation]), abs=1e-6)


def test_the_spec_of_a_version_chooses_nothing_when_it_is_trained_again(good: Exported, tmp_path: Path) -> None:
    """Size, colour, splits and recipe are in it: prepared and chosen again, it is what it is, whatever the defaults."""
    manifest = good.registry.verify("shapes", good.version)
    again, data, _, _ = prepared_job(tmp_path, **(manifest.training_spec or {}))
    assert again.model_dump(mode="json") == manifest.training_spec
    assert data.preprocessing == good.data.preprocessing
    for side in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(data, side), getattr(good.data, side))
    other = Preprocessing(height=99, width=99)
    recipe = choose(again, images=7, total=9, labels=["left", "right"], preprocessing=other, bf16=True)
    assert recipe.model_dump(mode="json") == manifest.training_spec


def test_the_report_counts_what_was_found_in_the_data(good: Exported) -> None:
    """All that the dataset's own report found odd is there as numbers, whether it gives a number or a list.

    Copies are counted in what was trained on: the report of a built-in dataset knows of none.
    """
    known = builtin_reports()["shapes"].model_copy(
        update={
            "rejected_files": 1,
            "conflicting_duplicates": 3,
            "near_duplicate_files": 4,
            "conflicting_near_duplicates": 5,
            "cross_split_duplicates": 6,
            "small_classes": [SmallClass(label=str(number), images=3) for number in range(7)],
            "extreme_size_files": 8,
            "case_twins": [["Cat", "cat", "CAT"], ["dog", "Dog"]],
        }
    )
    trained = Trained(good.job.id, good.data, good.fitted, good.evaluation, {}, known)
    data = report_document(trained, ["picture"] * len(good.evaluation.worst), [])["data"]
    copies = len(good.data.source.contents) - len(set(good.data.source.contents))
    assert copies > 0
    assert [data[name] for name in FOUND] == [1, copies, 3, 4, 5, 6, 7, 8, 2]
    groups = [count for count in Counter(good.data.source.contents).values() if count > 1]
    assert data["kept_together"] == {"images": sum(groups), "groups": len(groups)}


def test_a_version_knows_which_images_it_learned_from(good: Exported) -> None:
    """All that it was trained on, nothing that it was tested on: so it can be asked about what is new to it."""
    learned = read_trained_on(good.registry.folder("shapes", good.version))
    assert learned is not None
    contents = np.array(good.data.source.contents)
    assert among(contents[good.data.train].tolist(), learned).all()
    assert not among(contents[good.data.test].tolist(), learned).any()


def test_the_promotion_policy_is_obeyed(good: Exported, tmp_path: Path) -> None:
    """manual leaves the log alone; if_better promotes the first, and afterwards only what is not worse."""
    registry, version = good.registry, good.version

    def decide(policy: str, number: int) -> Outcome:
        spec = good.spec.model_copy(update={"promotion": policy})
        return promote(registry, spec, number, good.data, "job", max_pixels=10_000)

    assert not decide("manual", version).promoted
    assert registry.production("shapes") is None
    first = decide("if_better", version)
    assert first.promoted
    assert "no production version to beat" in first.reason

    worse = _export(registry, tmp_path, epochs=1, learning_rate=1e-6)
    refused = decide("if_better", worse.version)
    assert not refused.promoted
    assert refused.decision is not None
    assert refused.decision.verdict in ("worse", "class_lost")
    assert refused.decision.candidate_accuracy == pytest.approx(worse.evaluation.accuracy)
    assert refused.decision.production_accuracy == pytest.approx(good.evaluation.accuracy)
    assert f"{worse.evaluation.accuracy:.2%} against {good.evaluation.accuracy:.2%}" in refused.reason
    # The log has that decision, too, once however often the job is resumed; it promotes nothing.
    decide("if_better", worse.version)
    (noted,) = registry.refusals("shapes")
    assert (noted.version, noted.after, noted.by) == (worse.version, 1, "training job job")
    assert (noted.reason, noted.decision) == (refused.reason, refused.decision)
    assert [entry.version for entry in registry.promotions("shapes")] == [version]

    assert decide("always", worse.version).promoted
    production = registry.production("shapes")
    assert production is not None
    assert (production.version, production.decision) == (worse.version, None)
    better = decide("if_better", version)
    assert better.promoted
    logged = registry.production("shapes")
    assert logged is not None
    assert logged.decision == better.decision
    assert better.decision is not None
    assert (better.decision.verdict, better.decision.candidate, better.decision.production) == (
        "better",
        version,
        worse.version,
    )
    # Told once more, as by a job that died in the middle: the log stays as it is.
    assert decide("if_better", version).decision == better.decision
    assert registry.production("shapes") == logged


def test_a_version_is_not_asked_about_images_that_it_was_trained_on(good: Exported, tmp_path: Path) -> None:
    """With other splits the test images are others, most of which production knows: those are left out."""
    registry = Registry(tmp_path / "store")
    noisy = {"images": 90, "noise": 0.1}
    old = _export_untrained(registry, tmp_path / "old", shapes=noisy)
    new = _export_untrained(registry, tmp_path / "new", shapes=noisy, splits={"test": 0.45})
    registry.promote("shapes", old.version, by="test")
    spec = new.spec.model_copy(update={"promotion": "if_better"})

    def decide() -> Outcome:
        return promote(registry, spec, new.version, new.data, "job", max_pixels=10_000)

    known = set(np.array(old.data.source.contents)[old.data.train])
    strange = [position for position in new.data.test.tolist() if new.data.source.contents[position] not in known]
    outcome = decide()
    assert outcome.decision is not None
    assert outcome.decision.images == len(strange)
    assert outcome.decision.left_out == len(new.data.test) - len(strange) > 0

    # A version of an earlier release does not say what it was trained on: that is no fair comparison.
    manifest = registry.manifest("shapes", old.version)
    with registry.staging() as staged:
        shutil.copytree(registry.folder("shapes", old.version), staged, dirs_exist_ok=True)
        (staged / TRAINED_ON).unlink()
        silent = registry.register(staged, manifest)
    registry.promote("shapes", silent, by="test")
    outcome = decide()
    assert not outcome.promoted
    assert "does not say which images it was trained on" in outcome.reason


class _Raced(Registry):
    """Somebody else promotes version 1 just after it was first seen that nothing is production."""

    seen = False

    def production(self, model: str) -> Promotion | None:
        production = super().production(model)
        if not self.seen:
            self.seen = True
            self.promote(model, 1, by="another first job")
        return production


def test_of_two_first_versions_the_second_is_not_promoted_uncompared(good: Exported, tmp_path: Path) -> None:
    """Two jobs that see no production version at a time: the later one decides anew, against the earlier one's."""
    registry = _Raced(tmp_path / "store")
    for _ in range(2):
        with registry.staging() as staged:
            (staged / "saved_model.pb").write_text("of other classes")
            registry.register(
                staged, good.registry.manifest("shapes", good.version).model_copy(update={"labels": ["cat", "dog"]})
            )
    outcome = promote(
        registry, good.spec.model_copy(update={"promotion": "if_better"}), 2, good.data, "job", max_pixels=1
    )
    assert not outcome.promoted
    assert "production version 1 knows other classes" in outcome.reason
    assert [entry.version for entry in registry.promotions("shapes")] == [1]
    assert [(refusal.version, refusal.after) for refusal in registry.refusals("shapes")] == [(2, 1)]
