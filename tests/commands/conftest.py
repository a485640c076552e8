"""Calling `fovea` in this process, on a store and a workspace of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from app.cli import main
from app.store.registry import Registry
from tests.serving.versions import gray

Fovea = Callable[..., Result]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but a store, a workspace and the fake runtime."""
    for name in [name for name in os.environ if name.startswith("FOVEA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("FOVEA_MODEL_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("FOVEA_WORKSPACE", str(tmp_path / "workspace"))
    monkeypatch.setenv("FOVEA_RUNTIME", "fake")


@pytest.fixture
def fovea() -> Fovea:
    """Runs the command with these arguments."""
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of two classes, dark and light, ten pictures each."""
    folder = tmp_path / "Holiday Pictures"
    for label, level in (("dark", 0), ("light", 200)):
        (folder / label).mkdir(parents=True)
        for number in range(10):
            (folder / label / f"{number}.png").write_bytes(gray(level + number))
    return folder
