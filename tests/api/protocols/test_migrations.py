"""docs/protocols.md: the calls to which clients of BentoML and TorchServe change work as they stand there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.store.registry import Registry
from tests.server import Server, running
from tests.serving.versions import add_version, gray
from tests.system import require_tool

ADDRESS = "http://127.0.0.1:8000"
DOCUMENT = Path(__file__).parents[3] / "docs/protocols.md"
FILES = {"photo.jpg": 200, "a.jpg": 0, "b.jpg": 200}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with two versions of `cifar10`, and the photos beside them."""
    folder = tmp_path_factory.mktemp("server")
    registry = Registry(folder / "store")
    add_version(registry, "cifar10", promote=True)
    add_version(registry, "cifar10")
    for name, level in FILES.items():
        (folder / name).write_bytes(gray(level))
    with running(folder) as server:
        yield server


def test_what_is_posted_instead_is_answered(server: Server) -> None:
    """Word for word; the same photos are answered as by our own route, and by the version that is named."""
    section = DOCUMENT.read_text("utf-8").partition("\n## BentoML and TorchServe\n")[2].partition("\n## ")[0]
    calls = [call for call in re.findall(r"`(curl [^`]+)`", section) if ADDRESS in call]
    assert len(calls) == 12
    for call in calls:
        output = run(server, call)
        if "/api/v1/predict" in call:
            document = json.loads(output)
            version = document["version"]
            assert version == (2 if "version=2" in call else 1), call
            photos = re.findall(r"[@ ](\w+\.jpg)", call)
            assert [top_of(each) for each in document["predictions"]] == [
                native(server, photo, version) for photo in photos
            ], call
        elif ":predict" in call:
            expected = [probability for _, probability in sorted(native(server, "photo.jpg"))]
            assert json.loads(output) == {"predictions": [expected]}, call
        else:
            assert (output == "") == call.endswith("/ping"), call
    assert json.loads(run(server, f"curl {ADDRESS}/api/v1/models/cifar10"))["production"] == 2


def run(server: Server, call: str) -> str:
    """What a call of the document prints; that it went well is checked."""
    require_tool("curl")
    command = call.replace("curl ", "curl -sS --fail-with-body ", 1).replace(ADDRESS, server.url)
    done = subprocess.run(["bash", "-c", command], cwd=server.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (call, done.stdout, done.stderr)
    return done.stdout


def top_of(prediction: dict[str, Any]) -> list[tuple[int, float]]:
    """The classes of a prediction and their probabilities, the most probable first."""
    return [(entry["class_index"], entry["probability"]) for entry in prediction["top"]]


def native(server: Server, photo: str, version: int = 1) -> list[tuple[int, float]]:
    """`top_of` what our own route answers to a photo that is the whole body."""
    path = f"/api/v1/predict?model=cifar10&version={version}"
    answer = server.client.post(path, content=(server.folder / photo).read_bytes()).json()
    return top_of(answer["predictions"][0])
