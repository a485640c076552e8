"""Imports into a store of the test's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import pytest

from app.store.manifest import Manifest
from app.store.registry import Registry
from app.training.importer import ImportRequest, import_model


class Import(Protocol):
    """Import with fields of a request; returns the manifest and folder of what became of it."""

    def __call__(self, source: Path, **fields: Any) -> tuple[Manifest, Path]: ...


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store")


@pytest.fixture
def import_(registry: Registry) -> Import:
    def import_(source: Path, **fields: Any) -> tuple[Manifest, Path]:
        request = ImportRequest.model_validate({"source": source, "model": "insects", **fields})
        version = import_model(request, registry)
        return registry.verify("insects", version), registry.folder("insects", version)

    return import_
