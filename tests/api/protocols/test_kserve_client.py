"""KServe's own inference client, unchanged, against a real server: what it asks for, it gets.

Its package pins other versions of what we use, so that it lives in an environment of its own: `make kserve-client`.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.server import Server
from tests.serving.versions import SIZE, gray
from tests.system import missing

LEVEL = 200
SCRIPT = Path(__file__).with_name("kserve_script.py")
ENVIRONMENT = Path(__file__).parents[3] / ".venv-kserve-client"


@pytest.fixture(scope="module")
def answers(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the client got for each of its calls."""
    if not (ENVIRONMENT / ".installed").is_file():
        missing("KServe's client (make kserve-client)")
    photo = tmp_path_factory.mktemp("photo") / "photo.png"
    photo.write_bytes(gray(LEVEL))
    done = subprocess.run(
        [ENVIRONMENT / "bin" / "python", SCRIPT, server.url, photo, *map(str, (SIZE, SIZE, 1, LEVEL))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def native(server: Server) -> list[float]:
    """Our own route's probabilities, by class."""
    top = server.client.post("/api/v1/predict?top_k=0", content=gray(LEVEL)).json()["predictions"][0]["top"]
    return [entry["probability"] for entry in sorted(top, key=lambda entry: entry["class_index"])]


def test_version_1_answers_images_and_tensors(answers: dict[str, Any], native: list[float]) -> None:
    """An encoded image and the tensor of the same picture: the same to the last bit."""
    assert answers["v1 predict"] == {"predictions": [native, native]}


@pytest.mark.parametrize("output", [False, True], ids=["json out", "binary out"])
@pytest.mark.parametrize("binary", [False, True], ids=["json in", "binary in"])
@pytest.mark.parametrize("name", ["image", "image_bytes"])
def test_version_2_answers_in_json_and_in_binary(
    answers: dict[str, Any], native: list[float], name: str, binary: bool, output: bool
) -> None:
    """Tensors and encoded images, each way: the same to the last bit, with the request's id."""
    assert answers[f"v2 {name} binary={binary} output={output}"] == {
        "id": "an id",
        "model": "shapes",
        "name": "probabilities",
        "datatype": "FP32",
        "probabilities": [native],
        "type": "application/octet-stream" if output else "application/json",
    }


def test_both_versions_know_how_the_server_stands(answers: dict[str, Any]) -> None:
    """The server is live and ready, and so is its model; one that it does not have is not."""
    states = ("v1 live", "v1 ready", "v2 live", "v2 ready", "v2 model ready", "v2 missing ready")
    assert [answers[state] for state in states] == [True, True, True, True, True, False]


@pytest.mark.parametrize("call", ["v1 missing", "v2 missing"])
def test_its_errors_have_our_words(answers: dict[str, Any], call: str) -> None:
    """What it raises says what is wrong and what there is."""
    assert "roses" in answers[call]
    assert "shapes" in answers[call]
    assert "404 Not Found" in answers[call]


def test_its_explanations_are_asked_of_the_right_route(answers: dict[str, Any]) -> None:
    """The route that it asks is there, and wants at least one instance."""
    assert "at least one image" in answers["v1 explain"]
    assert "400 Bad Request" in answers["v1 explain"]
