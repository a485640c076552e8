"""Versions are of one kind where they run as fast: a network that was trained again is one that is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.preprocessing import Preprocessing
from app.serving.likeness import digest, kind_of
from app.store.manifest import TensorSpec
from tests.serving.versions import SIZE, manifest


def folder(path: Path, weights: bytes = b"\1" * 100, **files: bytes) -> Path:
    (path / "variables").mkdir(parents=True)
    (path / "variables" / "variables.data-00000-of-00001").write_bytes(weights)
    contents = {"saved_model.pb": b"graph", "fingerprint.pb": b"1"} | files
    for name, data in contents.items():
        (path / name).write_bytes(data)
    return path


def test_a_network_that_was_trained_again_is_of_the_same_kind(tmp_path: Path) -> None:
    """Other weights, of as many bytes; other classes, of the same number; who made it, when, and how good it is."""
    first = kind_of(folder(tmp_path / "1"), manifest())
    again = manifest(
        labels=("a", "b", "c"), created_by="another", metrics={"accuracy": 0.9}, files={"saved_model.pb": "0" * 64}
    )
    other = folder(tmp_path / "2", weights=b"\2" * 100, **{"fingerprint.pb": b"22", "README": b"More."})
    assert digest(kind_of(other, again)) == digest(first)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ("a", "b")},
        {"preprocessing": Preprocessing(height=SIZE, width=SIZE, color="grayscale", scaling="0..1")},
        {"input": TensorSpec(name="image", dtype="float32", shape=(-1, SIZE, SIZE, 1))},
        {"output": TensorSpec(name="probabilities", dtype="float32", shape=(-1, 4))},
        {"activation": "softmax"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_goes_in_or_comes_out_otherwise_is_another_kind(tmp_path: Path, change: dict[str, Any]) -> None:
    """So are other numbers of classes."""
    files = folder(tmp_path / "1")
    assert digest(kind_of(files, manifest(**change))) != digest(kind_of(files, manifest()))


@pytest.mark.parametrize(
    "files", [{"saved_model.pb": b"larger graph"}, {"weights": b"\1" * 101}, {"model.tflite": b"export"}], ids=str
)
def test_another_graph_is_another_kind(tmp_path: Path, files: dict[str, bytes]) -> None:
    """More layers or wider ones make it larger; and an export for another engine is another candidate."""
    one, other = folder(tmp_path / "1"), folder(tmp_path / "2", **files)
    assert digest(kind_of(one, manifest())) != digest(kind_of(other, manifest()))
