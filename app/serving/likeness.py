"""Which versions are of one kind: the same network, trained again, runs as fast as before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from app.store.manifest import LITERT, Manifest

Kind = Mapping[str, object]
"""What two versions of one kind have in common; JSON can hold it."""

_GRAPHS = ("saved_model.pb", LITERT)
_WEIGHTS = "variables/variables.data-*"


def kind_of(folder: Path, manifest: Manifest) -> Kind:
    """What says how fast a version is: what goes in and comes out, and the size of its graph and of its weights.

    Neither the weights' values nor the names of the classes do. A network that is trained again is exported to files of
    the very same sizes; a layer more or less, or a wider one, changes them.
    """
    files = [folder / name for name in _GRAPHS] + sorted(folder.glob(_WEIGHTS))
    return {
        "preprocessing": manifest.preprocessing.model_dump(mode="json"),
        "input": [manifest.input.dtype, *manifest.input.shape],
        "output": [manifest.output.dtype, *manifest.output.shape],
        "activation": manifest.activation,
        "labels": len(manifest.labels),
        "bytes": {file.relative_to(folder).as_posix(): file.stat().st_size for file in files if file.is_file()},
    }


def digest(facts: object) -> str:
    """A name for what JSON can hold."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
