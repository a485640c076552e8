"""`fovea predict`: files in, labels out, without a server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.store.registry import Registry
from tests.commands.conftest import Fovea
from tests.server import running
from tests.serving.versions import UNKNOWN, add_version, gray


@pytest.fixture
def black(tmp_path: Path) -> Path:
    path = tmp_path / "black.png"
    path.write_bytes(gray(0))
    return path


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    path = tmp_path / "broken.png"
    path.write_bytes(gray(0)[:-30])
    return path


def test_labels_are_printed_best_first(fovea: Fovea, registry: Registry, black: Path) -> None:
    """Each image is followed by its classes, the most probable first."""
    add_version(registry, promote=True)
    result = fovea("predict", black)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == str(black)
    assert [line.split()[0] for line in lines[1:]] == ["horizontal", "vertical", "diagonal"]
    assert "shapes, version 1" in result.stderr


def test_what_a_version_does_not_know_is_marked(fovea: Fovea, registry: Registry, black: Path) -> None:
    """Below the version's threshold the file's line says `unknown`, and `--json` has the same as the API."""
    add_version(registry, promote=True, **UNKNOWN)
    between = black.with_name("between.png")
    between.write_bytes(gray(128))
    lines = fovea("predict", black, between, "--top-k", 1).stdout.splitlines()
    assert (lines[0], lines[2]) == (str(black), f"{between}  (unknown)")
    document = json.loads(fovea("predict", black, between, "--json").stdout)
    assert [prediction["unknown"] for prediction in document["predictions"]] == [False, True]


def test_json_is_what_the_server_answers(tmp_path: Path, fovea: Fovea, registry: Registry, black: Path) -> None:
    """`--json` gives the very predictions that the API gives for the same image."""
    add_version(registry, promote=True)
    result = fovea("predict", black, "--json", "--top-k", 2)
    assert result.exit_code == 0
    with running(tmp_path) as server:
        answer = server.client.post("/api/v1/predict?top_k=2", files={"file": (str(black), black.read_bytes())}).json()
    del answer["id"]
    offline = json.loads(result.stdout)
    assert Path(answer["predictions"][0].pop("name")).name == Path(offline["predictions"][0].pop("name")).name
    assert offline == answer


def test_broken_image_fails_alone(fovea: Fovea, registry: Registry, black: Path, broken: Path) -> None:
    """One bad image makes the exit status 1; the others get their answers."""
    add_version(registry, promote=True)
    result = fovea("predict", broken, black, black.parent / "missing.png", "--json")
    assert result.exit_code == 1
    first, second, third = json.loads(result.stdout)["predictions"]
    assert first["error"]["code"] == "invalid_image"
    assert second["label"] == "horizontal"
    assert third["error"] == {
        "code": "unreadable_file",
        "detail": "The file cannot be read: No such file or directory.",
    }


def test_broken_image_is_named_in_text(fovea: Fovea, registry: Registry, black: Path, broken: Path) -> None:
    """Without `--json` what is wrong with an image goes to standard error."""
    add_version(registry, promote=True)
    result = fovea("predict", broken, black)
    assert result.exit_code == 1
    assert f"{broken}: The image is damaged" in result.stderr
    assert str(broken) not in result.stdout


def test_version_that_is_not_in_production_can_be_asked(fovea: Fovea, registry: Registry, black: Path) -> None:
    """A version can be tried before it is promoted."""
    add_version(registry, promote=True)
    add_version(registry)
    result = fovea("predict", black, "--version", 2, "--json")
    assert json.loads(result.stdout)["version"] == 2


def test_model_without_production_version_says_what_to_do(fovea: Fovea, registry: Registry, black: Path) -> None:
    """Where nothing was promoted, the versions that could be asked are named."""
    add_version(registry)
    result = fovea("predict", black)
    assert result.exit_code == 1
    assert "No version of shapes is in production. Name one with --version; it has: 1." in result.stderr


def test_several_models_must_be_told_apart(
    fovea: Fovea, registry: Registry, black: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several models one must be named, by option or by setting."""
    add_version(registry, "lines", promote=True)
    add_version(registry, "shapes", promote=True)
    result = fovea("predict", black)
    assert result.exit_code == 2
    assert "lines, shapes" in result.stderr
    assert fovea("predict", black, "--model", "lines").exit_code == 0
    monkeypatch.setenv("FOVEA_DEFAULT_MODEL", "shapes")
    assert json.loads(fovea("predict", black, "--json").stdout)["model"] == "shapes"


def test_empty_store_says_what_to_do(fovea: Fovea, black: Path) -> None:
    """Without any model the message says how to get one."""
    result = fovea("predict", black)
    assert result.exit_code == 2
    assert "train or import one" in result.stderr


def test_refused_version_answers_nothing(fovea: Fovea, registry: Registry, black: Path) -> None:
    """A version that was tampered with is refused, as in a server."""
    add_version(registry, promote=True)
    (registry.folder("shapes", 1) / "golden" / "0.png").write_bytes(gray(9))
    result = fovea("predict", black)
    assert result.exit_code == 1
    assert "golden/0.png" in result.stderr
    assert result.stdout == ""


def test_no_tensorflow_is_loaded(registry: Registry, black: Path) -> None:
    """Predicting needs no TensorFlow, where the engine does not."""
    add_version(registry, promote=True)
    code = (
        "import sys; from app.cli import main\n"
        "main(['predict', sys.argv[1]], standalone_mode=False); sys.exit('tensorflow' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(black)], env=os.environ, capture_output=True, check=False)
    assert ended.returncode == 0
    assert b"horizontal" in ended.stdout
