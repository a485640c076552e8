"""`fovea models`: list, show, promote, roll back, import."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.serving.likeness import kind_of
from app.serving.tuning_cache import Choice, TuningCache
from app.store.manifest import Calibration, UnknownThreshold
from app.store.registry import Registry
from tests.commands.conftest import Fovea
from tests.serving.versions import add_version, gray
from tests.store.versions import decision


def test_models_are_listed_with_their_production_version(fovea: Fovea, registry: Registry) -> None:
    """A line a model: what is in production, how accurate it is, and what versions there are."""
    add_version(registry, promote=True, metrics={"accuracy": 0.9871})
    add_version(registry)
    add_version(registry, "lines")
    result = fovea("models", "list")
    assert result.exit_code == 0
    assert [line.split() for line in result.output.splitlines()] == [
        ["MODEL", "PRODUCTION", "ACCURACY", "VERSIONS"],
        ["lines", "-", "-", "1"],
        ["shapes", "1", "0.9871", "1,", "2"],
    ]


def test_empty_store_is_named(fovea: Fovea, tmp_path: Path) -> None:
    """Where there are no models, it is told where they were looked for."""
    result = fovea("models", "list")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == f"No models in {tmp_path / 'store'} (FOVEA_MODEL_STORE).\n"


def test_model_is_shown_with_its_versions_and_its_log(fovea: Fovea, registry: Registry) -> None:
    """A model's versions, which of them is production, and who made it so."""
    add_version(registry, promote=True)
    add_version(registry)
    result = fovea("models", "show", "shapes")
    assert result.exit_code == 0
    versions, log = result.output.split("\n\n")
    assert "production" in versions.splitlines()[1]
    assert "production" not in versions.splitlines()[2]
    assert "promote  1        test" in log


def test_version_is_shown(fovea: Fovea, registry: Registry) -> None:
    """What a version is: labels, input, metrics; or with --json its whole manifest."""
    metrics = {"accuracy": 0.9591, "validation_accuracy": 0.5, "loss": 0.3581091, "parameters": 1351715.0}
    add_version(registry, metrics=metrics)
    result = fovea("models", "show", "shapes", 1)
    assert result.exit_code == 0
    assert "  labels               horizontal, vertical, diagonal\n" in result.output
    assert "  input                28 x 28 pixels, greyscale, " in result.output
    assert "  accuracy             95.91%\n  validation accuracy  50.00%\n" in result.output
    assert "  loss                 0.3581\n  parameters           1,351,715\n" in result.output
    manifest = json.loads(fovea("models", "show", "shapes", 1, "--json").output)
    assert manifest == registry.manifest("shapes", 1).model_dump(mode="json")


def test_version_is_shown_with_what_its_figures_are_worth(fovea: Fovea, registry: Registry) -> None:
    """The interval beside the accuracy, how far probabilities can be trusted, and what is better taken as unknown."""
    add_version(
        registry,
        metrics={"accuracy": 0.9591, "accuracy_low": 0.9533, "accuracy_high": 0.9642},
        calibration=Calibration(temperature=1.42, fitted_on=500, ece=0.012, ece_uncalibrated=0.056, images=5000),
        unknown=UnknownThreshold(threshold=0.612, coverage=0.943, accuracy=0.981, images=5000),
    )
    output = fovea("models", "show", "shapes", 1).output
    assert "  accuracy           95.91% (95 % confidence: 95.33% to 96.42%)\n" in output
    assert "accuracy low" not in output
    assert "  calibration error  1.20%, 5.60% before (temperature 1.42)\n" in output
    assert "  unknown below      0.612 (94.3% are above)\n" in output


def test_log_shows_what_a_promotion_rests_on(fovea: Fovea, registry: Registry) -> None:
    """The numbers of the comparison stand below the log."""
    add_version(registry, promote=True)
    add_version(registry)
    registry.promote("shapes", 2, by="a job", reason="policy: if_better", decision=decision(2, 1))
    output = fovea("models", "show", "shapes").output
    assert "How version 2 compared with version 1:\n" in output
    assert "  test images  1,000, 20 left out that production was trained on\n" in output
    assert "41 by the new one only, 18 by the old one only (McNemar: p = 0.0037)\n" in output
    assert "+2.30 points; each of +0.98 and +3.69 with 95% confidence; -1 is put up with\n" in output
    assert "'dog': -0.5 points of 480 images; -5 is put up with\n" in output


def test_log_shows_what_was_not_let_through(fovea: Fovea, registry: Registry) -> None:
    """A refusal stands where it belongs among the promotions, with its numbers below."""
    for promoted in (True, False, False):
        add_version(registry, promote=promoted)
    registry.promote("shapes", 2, by="ann")
    registry.refuse("shapes", 3, after=1, by="a job", reason="not promoted: worse", decision=decision(3, 1))
    output = fovea("models", "show", "shapes").output
    log = [line for line in output.splitlines() if line.startswith("20")]
    assert [line.split()[2:4] for line in log] == [["promote", "1"], ["refuse", "3"], ["promote", "2"]]
    assert log[1].endswith("a job  not promoted: worse")
    assert "How version 3 compared with version 1:\n" in output


def test_version_shows_the_engine_that_was_chosen_for_it(
    fovea: Fovea, registry: Registry, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With what each candidate gave, once a server has measured them."""
    add_version(registry)
    monkeypatch.setenv("FOVEA_CACHE", str(tmp_path))
    assert "  engine " not in fovea("models", "show", "shapes", 1).output
    choice = Choice(
        circumstances={"lanes": 2, "processor": "some"},
        engine="litert-f32",
        precision="f32",
        wide=False,
        best_batch=8,
        seconds_per_image=1 / 17650,
        lone_seconds=0.000058,
        candidates={"openvino-f32": 14930.6, "litert-f32": 17650.2},
        measured_at=datetime(2026, 11, 22, 20, 2, tzinfo=UTC),
    )
    kind = kind_of(registry.folder("shapes", 1), registry.manifest("shapes", 1))
    TuningCache(tmp_path / "engines").store(kind, choice)
    output = fovea("models", "show", "shapes", 1).output
    assert "  engine    litert-f32, 8 images a call\n" in output
    assert "2026-11-22 20:02 on one of 2 lanes: openvino-f32 14,931/s, litert-f32 17,650/s\n" in output


def test_promotion_is_logged_with_reason_and_user(fovea: Fovea, registry: Registry) -> None:
    """Promoting makes the version production, and says who did it and why."""
    add_version(registry, promote=True)
    add_version(registry)
    result = fovea("models", "promote", "shapes", 2, "--reason", "Better.")
    assert result.exit_code == 0
    assert result.output == "Version 2 of shapes is in production.\n"
    entry = registry.promotions("shapes")[-1]
    assert (entry.version, entry.reason, entry.action) == (2, "Better.", "promote")
    assert entry.by.endswith("command line)")


def test_version_that_fails_its_checks_is_not_promoted(fovea: Fovea, registry: Registry) -> None:
    """The check of a server's load is made before the log is written."""
    add_version(registry, promote=True)
    add_version(registry, forge=lambda images, probabilities: (images, probabilities[:, ::-1]))
    result = fovea("models", "promote", "shapes", 2)
    assert result.exit_code == 1
    assert "Version 2 of shapes is refused" in result.stderr
    assert len(registry.promotions("shapes")) == 1


def test_rollback_goes_back(fovea: Fovea, registry: Registry) -> None:
    """The version that was production before is production again; what to type against it is told, not to repeat it."""
    add_version(registry, promote=True)
    add_version(registry, promote=True)
    result = fovea("models", "rollback", "shapes", "--reason", "Cats are dogs.")
    undo = "fovea models promote shapes 2"
    assert result.output == f"Version 1 of shapes is in production again.\nUndo:     {undo}\n"
    assert registry.promotions("shapes")[-1].action == "rollback"
    again = fovea("models", "rollback", "shapes")
    assert again.exit_code == 1
    assert "it was rolled back to version 1" in again.stderr
    assert "that was production since: 2.\n" in again.stderr


def test_rollback_to_a_version_that_fails_its_checks_is_refused(fovea: Fovea, registry: Registry) -> None:
    """Nothing is rolled back to a version that no server would load."""
    add_version(registry, promote=True, forge=lambda images, probabilities: (images, probabilities[:, ::-1]))
    add_version(registry, promote=True)
    result = fovea("models", "rollback", "shapes")
    assert result.exit_code == 1
    assert "Version 1 of shapes is refused" in result.stderr
    production = registry.production("shapes")
    assert production is not None
    assert production.version == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (
            ("show", "nothing"),
            2,
            "There is: shapes. Looked in {store} (FOVEA_MODEL_STORE).",
        ),
        (("show", "../x"), 2, "is not a valid model name"),
        (("show", "shapes", "--json"), 2, "name the version"),
        (("promote", "shapes", 9), 2, "has no version 9. It has: 1. Looked in {store} (FOVEA_MODEL_STORE)."),
        (("promote", "shapes", 0), 2, "0 is not in the range"),
        (("rollback", "shapes"), 1, "no version to go back to"),
    ],
)
def test_what_does_not_exist_is_named(
    fovea: Fovea, registry: Registry, tmp_path: Path, arguments: tuple[object, ...], status: int, message: str
) -> None:
    """Errors say what is wrong, what there is and where, and their status tells usage from failure."""
    add_version(registry, promote=True)
    result = fovea("models", *arguments)
    assert result.exit_code == status
    assert message.format(store=tmp_path / "store") in result.stderr


@pytest.fixture
def importer(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """An importer that registers a version for the fake runtime; gives the requests that it was called with."""
    requests: list[dict[str, Any]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        assert command[1:3] == ["-m", "app.training.importer"]
        requests.append(json.loads(Path(command[3]).read_text()))
        if requests[-1]["scaling"] == "caffe":
            return subprocess.CompletedProcess(command, 2, "", "noise\nThe model has no signature.\n")
        if requests[-1]["scaling"] == "imagenet":
            return subprocess.CompletedProcess(command, 1, "", "The store is full.\n")
        return subprocess.CompletedProcess(command, 0, json.dumps({"version": add_version(registry)}), "noise")

    monkeypatch.setattr(subprocess, "run", run)
    return requests


def test_import_asks_the_importer(
    fovea: Fovea, registry: Registry, importer: list[dict[str, Any]], tmp_path: Path
) -> None:
    """All that the options say reaches the importer, and the version is named."""
    golden = tmp_path / "golden.png"
    golden.write_bytes(gray(1))
    labels = tmp_path / "labels.txt"
    labels.write_text("one\ntwo\n\nthree\n")
    options = ["--name", "shapes", "--labels", labels, "--size", "28x32", "--scaling", "-1..1", "--golden", golden]
    result = fovea("models", "import", tmp_path, *options, "--color", "grayscale", "--fit", "crop")
    assert result.exit_code == 0
    assert "as shapes version 1" in result.stdout
    assert importer == [
        {
            "source": str(tmp_path),
            "model": "shapes",
            "labels": ["one", "two", "three"],
            "height": 28,
            "width": 32,
            "color": "grayscale",
            "resample": "bilinear",
            "fit": "crop",
            "scaling": "-1..1",
            "images": [str(golden)],
        }
    ]
    assert registry.production("shapes") is None


def test_imported_version_can_be_promoted_at_once(
    fovea: Fovea, registry: Registry, importer: list[dict[str, Any]], tmp_path: Path
) -> None:
    """With --promote it is checked and becomes production; what was not said is left to the model."""
    result = fovea("models", "import", tmp_path, "--name", "shapes", "--labels", "a, b,c", "--size", "28", "--promote")
    assert result.exit_code == 0
    assert registry.production("shapes") is not None
    assert importer[0]["labels"] == ["a", "b", "c"]
    assert (importer[0]["height"], importer[0]["width"]) == (28, 28)
    assert (importer[0]["color"], importer[0]["scaling"]) == (None, None)


def test_importers_reason_is_told(fovea: Fovea, importer: list[dict[str, Any]], tmp_path: Path) -> None:
    """A model that cannot be imported is refused in the importer's words."""
    result = fovea("models", "import", tmp_path, "--name", "shapes", "--scaling", "caffe")
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: The model has no signature.\n")
    assert len(importer) == 1
    failed = fovea("models", "import", tmp_path, "--name", "shapes", "--scaling", "imagenet")
    assert failed.exit_code == 1
    assert failed.stderr.endswith("Error: The store is full.\n")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [("--size", "28x", "rows x columns"), ("--size", "0", "rows x columns"), ("--labels", "one", "neither a file")],
)
def test_options_that_cannot_be_meant_are_refused(
    fovea: Fovea, importer: list[dict[str, Any]], tmp_path: Path, option: str, value: str, message: str
) -> None:
    """Nothing is loaded for an option that is wrong in itself."""
    result = fovea("models", "import", tmp_path, "--name", "shapes", option, value)
    assert result.exit_code == 2
    assert message in result.stderr
    assert importer == []


@pytest.mark.parametrize(
    ("name", "like"), [("ResNet50", "resnet50"), ("net.v2", "net-v2"), ("My Net (new)", "my-net-new")]
)
def test_a_name_that_is_not_allowed_is_refused_with_one_like_it(
    fovea: Fovea, importer: list[dict[str, Any]], tmp_path: Path, name: str, like: str
) -> None:
    """Other servers take capitals and dots: what is allowed here is said at once, and nothing is loaded for it."""
    result = fovea("models", "import", tmp_path, "--name", name)
    assert result.exit_code == 2
    assert f"{name!r} is not a valid model name. Allowed: 1 to 63 characters out of a-z, 0-9" in result.stderr
    assert result.stderr.endswith(f"Like it: --name {like}\n")
    assert "Importing" not in result.stderr
    assert importer == []
