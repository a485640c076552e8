"""Which engine runs a version, and what comes with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from app.errors import VersionRefused
from app.serving.runtimes import loading
from tests.serving.versions import loader, manifest


@pytest.mark.parametrize(("choice", "package"), [("openvino", "serve"), ("litert", "serve"), ("tensorflow", "train")])
def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: str, package: str
) -> None:
    """With what to install, or which other one to choose."""
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(VersionRefused, match=rf"not installed: install `fovea\[{package}\]`, or set FOVEA_RUNTIME"):
        loader(choice)(tmp_path, manifest(), lanes=1, threads=1)


@pytest.mark.parametrize("engine", ["openvino", "litert"])
def test_engines_serve_without_tensorflow_and_report_to_nobody(saved_models: Path, tmp_path: Path, engine: str) -> None:
    """In a fresh process: no TensorFlow, none of the other engines, no telemetry of OpenVINO's, and nothing written in
    the home folder.
    """
    code = """
import sys, numpy
from pathlib import Path
from tests.serving.versions import loader, manifest
import app.serving.classifier
before = {"openvino", "ai_edge_litert", "tensorflow"} & sys.modules.keys()
runtime = loader(sys.argv[2])(Path(sys.argv[1]), manifest(), lanes=1, threads=1)
runtime.predict(numpy.zeros((2, 28, 28, 1), numpy.uint8))
unwanted = {"tensorflow", "keras", "openvino_telemetry", "openvino.tools", "openvino", "ai_edge_litert"} - {sys.argv[3]}
print(runtime.name, before, unwanted & sys.modules.keys())
"""
    env = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code, str(saved_models / "plain"), engine]
    command += ["ai_edge_litert" if engine == "litert" else engine]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == f"{engine}-f32 set() set()\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_fake_loads_without_any_engine(tmp_path: Path) -> None:
    """In a fresh process: neither OpenVINO nor TensorFlow is imported."""
    code = """
import sys
from pathlib import Path
from tests.serving.versions import loader, manifest
loader("fake")(Path("."), manifest(), lanes=1, threads=1)
print({"tensorflow", "openvino"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("choice", ["openvino", "litert", "tensorflow"])
def test_a_graph_with_another_output_than_the_only_one_is_taken_by_position(saved_models: Path, choice: str) -> None:
    """Exports that renamed their one output ("Identity:0") are still read."""
    other = manifest(output={"name": "Identity:0", "dtype": "float32", "shape": (-1, 3)})
    runtime = loader(choice)(saved_models / "plain", other, lanes=1, threads=1)
    assert runtime.predict(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 3)
