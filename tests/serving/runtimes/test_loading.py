"""Which engine runs a version, and what comes with it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest

from app.errors import VersionRefused
from app.serving.runtimes import loading
from tests.serving.versions import manifest


def test_auto_takes_openvino(saved_models: Path) -> None:
    """The fast engine, for every graph that it can read."""
    assert loading.load_auto(saved_models / "plain", manifest(), lanes=1, threads=1).name == "openvino-f32"


def test_auto_falls_back_to_tensorflow_with_a_warning(saved_models: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A graph that OpenVINO cannot read is run by TensorFlow, and the log says which operation it was."""
    with caplog.at_level(logging.WARNING, "app"):
        runtime = loading.load_auto(saved_models / "unreadable", manifest(), lanes=1, threads=1)
    assert runtime.name == "tensorflow-f32"
    assert "AsString" in caplog.text
    with np.load(saved_models / "unreadable" / "reference.npz") as reference:
        np.testing.assert_allclose(runtime.predict(reference["images"]), reference["probabilities"], atol=1e-5)


def test_auto_without_tensorflow_refuses_what_openvino_cannot_read(
    saved_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the operation that is missing and what to install."""

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "tensorflow" else ModuleSpec(name, None)

    monkeypatch.setattr(loading, "find_spec", find_spec)
    with pytest.raises(VersionRefused, match=r"(?s)AsString.*not installed: install `fovea\[train\]`"):
        loading.load_auto(saved_models / "unreadable", manifest(), lanes=1, threads=1)


@pytest.mark.parametrize(("choice", "package"), [("openvino", "serve"), ("tensorflow", "train")])
def test_an_engine_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, choice: loading.Choice, package: str
) -> None:
    """With what to install, or which other one to choose."""
    monkeypatch.setattr(loading, "find_spec", lambda _: None)
    with pytest.raises(VersionRefused, match=rf"not installed: install `fovea\[{package}\]`, or set FOVEA_RUNTIME"):
        loading.runtime_loader(choice)(tmp_path, manifest(), lanes=1, threads=1)


def test_openvino_serves_without_tensorflow_and_reports_to_nobody(saved_models: Path, tmp_path: Path) -> None:
    """In a fresh process: no TensorFlow, no telemetry of OpenVINO's, and nothing written in the home folder."""
    code = """
import sys, numpy
from pathlib import Path
from app.serving.runtimes.loading import runtime_loader
from tests.serving.versions import manifest
import app.serving.classifier
before = {"openvino", "tensorflow"} & sys.modules.keys()
runtime = runtime_loader("auto")(Path(sys.argv[1]), manifest(), lanes=1, threads=1)
runtime.predict(numpy.zeros((2, 28, 28, 1), numpy.uint8))
print(runtime.name, before, {"tensorflow", "keras", "openvino_telemetry", "openvino.tools"} & sys.modules.keys())
"""
    env = {**os.environ, "HOME": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code, str(saved_models / "plain")]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.stdout == "openvino-f32 set() set()\n", done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_fake_loads_without_any_engine(tmp_path: Path) -> None:
    """In a fresh process: neither OpenVINO nor TensorFlow is imported."""
    code = """
import sys
from pathlib import Path
from app.serving.runtimes.loading import runtime_loader
from tests.serving.versions import manifest
runtime_loader("fake")(Path("."), manifest(), lanes=1, threads=1)
print({"tensorflow", "openvino"} & sys.modules.keys())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


@pytest.mark.parametrize("choice", ["openvino", "tensorflow"])
def test_a_graph_with_another_output_than_the_only_one_is_taken_by_position(
    saved_models: Path, choice: loading.Choice
) -> None:
    """Exports that renamed their one output ("Identity:0") are still read."""
    other = manifest(output={"name": "Identity:0", "dtype": "float32", "shape": (-1, 3)})
    runtime = loading.runtime_loader(choice)(saved_models / "plain", other, lanes=1, threads=1)
    assert runtime.predict(np.zeros((1, 28, 28, 1), np.uint8)).shape == (1, 3)
