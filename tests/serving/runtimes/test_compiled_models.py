"""Compiled models are kept on disk, trusted only where nobody else can have written them, and never needed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from app.serving.runtimes import compiled_models
from app.serving.runtimes.compiled_models import CompiledModels
from app.serving.runtimes.loading import load_openvino
from app.store.manifest import Manifest
from tests.serving.versions import manifest

IMAGES = np.random.default_rng(3).integers(0, 256, (3, 28, 28, 1), np.uint8)


@pytest.fixture
def cache(tmp_path: Path) -> CompiledModels:
    return CompiledModels(tmp_path / "openvino")


def blobs(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "openvino").glob("*.blob"))


def stored(**changes: object) -> Manifest:
    """Only a version that is in a store has hashes, which say what it is."""
    return manifest("shapes", files={"saved_model.pb": "0" * 64}, created_at="2026-11-22T20:02:00Z", **changes)


def answer(folder: Path, document: Manifest, cache: CompiledModels, *, precision: str = "f32") -> np.ndarray:
    runtime = load_openvino(folder, document, lanes=1, threads=1, precision=precision, compiled=cache)  # type: ignore[arg-type]
    try:
        return runtime.predict(IMAGES)
    finally:
        runtime.close()


def test_a_model_that_was_compiled_before_answers_the_same_without_its_graph(
    saved_models: Path, tmp_path: Path, cache: CompiledModels
) -> None:
    """The SavedModel, reading which takes longest, is not opened again."""
    first = answer(saved_models / "plain", stored(), cache)
    assert len(blobs(tmp_path)) == 1
    np.testing.assert_array_equal(answer(tmp_path / "nowhere", stored(), cache), first)


def test_another_version_is_compiled_for_itself(saved_models: Path, tmp_path: Path, cache: CompiledModels) -> None:
    """The key has all of the manifest."""
    first = answer(saved_models / "plain", stored(), cache)
    assert not np.allclose(answer(saved_models / "other", stored(created_by="another"), cache), first)
    assert len(blobs(tmp_path)) == 2


def test_a_version_without_hashes_is_not_kept(saved_models: Path, tmp_path: Path, cache: CompiledModels) -> None:
    """Nothing would say which graph it was."""
    answer(saved_models / "plain", manifest(), cache)
    assert not (tmp_path / "openvino").exists()


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "not a model"])
def test_a_damaged_file_is_compiled_anew(
    saved_models: Path, tmp_path: Path, cache: CompiledModels, damage: str
) -> None:
    """The engine never sees what is not as it was written; what it cannot take does no harm either."""
    first = answer(saved_models / "plain", stored(), cache)
    (file,) = blobs(tmp_path)
    sound = file.read_bytes()
    if damage == "not a model":
        cache.store(file.stem, b"something else")
    else:
        file.write_bytes({"truncated": sound[:-9], "changed": sound[:-1] + b"\xff\xfe", "empty": b""}[damage])
        damaged = file.read_bytes()
        assert cache.load(file.stem) is None
        assert not file.exists()
        file.write_bytes(damaged)
    np.testing.assert_array_equal(answer(saved_models / "plain", stored(), cache), first)
    np.testing.assert_array_equal(answer(tmp_path / "nowhere", stored(), cache), first)


def test_files_that_others_can_write_are_not_read(saved_models: Path, tmp_path: Path, cache: CompiledModels) -> None:
    """They could hold another model. The folder is made for this user alone."""
    answer(saved_models / "plain", stored(), cache)
    folder = tmp_path / "openvino"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert blobs(tmp_path)[0].stat().st_mode & 0o777 == 0o600
    folder.chmod(0o770)
    assert cache.load(blobs(tmp_path)[0].stem) is None
    folder.chmod(0o750)
    assert cache.load(blobs(tmp_path)[0].stem) is not None


def test_what_was_not_used_for_longest_goes(
    tmp_path: Path, cache: CompiledModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few files and bytes are kept; the newest stays in any case."""
    monkeypatch.setattr(compiled_models, "MAX_FILES", 3)
    monkeypatch.setattr(compiled_models, "MAX_BYTES", 500)
    for number, name in enumerate("abc"):
        cache.store(name, b"x" * 50)
        os.utime(tmp_path / "openvino" / f"{name}.blob", (1000 + number, 1000 + number))
    assert cache.load("a") == b"x" * 50  # used just now
    cache.store("d", b"x" * 50)
    assert [path.stem for path in blobs(tmp_path)] == ["a", "c", "d"]
    cache.store("large", b"x" * 900)
    assert [path.stem for path in blobs(tmp_path)] == ["large"]


def test_a_folder_that_may_only_be_read_is_read(
    saved_models: Path, tmp_path: Path, cache: CompiledModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in it was compiled for this machine; nothing is added."""
    first = answer(saved_models / "plain", stored(), cache)
    assert cache.usable()

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    np.testing.assert_array_equal(answer(tmp_path / "nowhere", stored(), cache), first)
    assert not cache.usable()


def test_a_folder_that_cannot_be_made_does_no_harm(saved_models: Path, tmp_path: Path) -> None:
    """The model is compiled each time."""
    (tmp_path / "file").write_text("")
    cache = CompiledModels(tmp_path / "file" / "openvino")
    assert not cache.usable()
    assert len(answer(saved_models / "plain", stored(), cache)) == 3
