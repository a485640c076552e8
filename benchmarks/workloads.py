"""The two workloads: what is sent, which model answers, and what TensorFlow says the answers are.

`tiny` is nearly all overhead, `photo` nearly all decoding and inference. What they need is built once, into `.bench/`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.preprocessing import Float32Array
from app.store.manifest import MANIFEST, Manifest
from benchmarks import pictures
from benchmarks.places import HOME, REPOSITORY

# Raised when what is built here changes: what was built before is then built again.
_RECIPE = 5
_IMAGES = 16


@dataclass(frozen=True)
class Workload:
    """One kind of image and the model for it."""

    name: str
    title: str
    media_type: str
    suffix: str
    picture: Callable[[int], bytes]
    build: Callable[[Workload], None]

    @property
    def folder(self) -> Path:
        return HOME / self.name

    @property
    def store(self) -> Path:
        """Root of a model store with this model only."""
        return self.folder / "store"

    @property
    def version(self) -> Path:
        """Folder of the version that is in production: a SavedModel with a manifest."""
        return self.store / self.name / "1"

    @property
    def files(self) -> list[Path]:
        """The encoded images, all different."""
        return [self.folder / "images" / f"{number:02}{self.suffix}" for number in range(_IMAGES)]

    def images(self) -> list[bytes]:
        return [file.read_bytes() for file in self.files]

    def manifest(self) -> Manifest:
        return Manifest.model_validate_json((self.version / MANIFEST).read_bytes())

    def expected(self) -> Float32Array:
        """What TensorFlow answers to the images: probabilities, float32 [images, classes]."""
        return np.asarray(np.load(self.folder / "expected.npy"), np.float32)

    def prepare(self) -> None:
        """Build what is not there yet: images, model and TensorFlow's answers."""
        stamp = self.folder / "recipe.json"
        if stamp.is_file() and json.loads(stamp.read_text()) == _RECIPE:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "images").mkdir(parents=True)
        for number, file in enumerate(self.files):
            file.write_bytes(self.picture(number))
        self.build(self)
        run("-m", "benchmarks.reference", str(self.folder / "expected.npy"), str(self.version), *map(str, self.files))
        stamp.write_text(json.dumps(_RECIPE))


def run(*arguments: str, **environment: str) -> None:
    """Run this Python with the arguments, its output going to a log; raises RuntimeError with the end of that."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"python {' '.join(arguments)} failed:\n{done.stdout[-3000:]}")


def train_shapes(store: Path, workspace: Path, model: str, *, seed: int = 0, promotion: str = "always") -> None:
    """Add a version of the two-convolution network to a store: trained on the built-in lines, within seconds."""
    run(
        *("-m", "app.cli", "train", "shapes", "--local", "--model", model),
        *("--epochs", "4", "--seed", str(seed), "--promotion", promotion),
        FOVEA_MODEL_STORE=str(store),
        FOVEA_WORKSPACE=str(workspace),
    )


def _build_tiny(workload: Workload) -> None:
    train_shapes(workload.store, workload.folder / "workspace", workload.name)


def _build_photo(workload: Workload) -> None:
    exported = workload.folder / "mobilenet_v2"
    run("-m", "benchmarks.mobilenet", str(exported))
    import_photo(workload, workload.store, exported)


def import_photo(workload: Workload, store: Path, exported: Path | None = None, *, promote: bool = True) -> None:
    """Add a version of the MobileNetV2 to a store."""
    golden = [option for file in workload.files[:4] for option in ("--golden", str(file))]
    run(
        *("-m", "app.cli", "models", "import", str(exported or workload.folder / "mobilenet_v2")),
        *("--name", workload.name, "--scaling=-1..1", *golden),
        *(("--promote",) if promote else ()),
        FOVEA_MODEL_STORE=str(store),
        FOVEA_WORKSPACE=str(workload.folder / "workspace"),
    )


WORKLOADS = {
    workload.name: workload
    for workload in (
        Workload(
            name="tiny",
            title="28 x 28 grey PNG (0.7 kB) to a CNN with two convolutions, 3 classes",
            media_type="image/png",
            suffix=".png",
            picture=pictures.line,
            build=_build_tiny,
        ),
        Workload(
            name="photo",
            title="640 x 480 JPEG (70-80 kB) to MobileNetV2 at 224 x 224, 1000 classes",
            media_type="image/jpeg",
            suffix=".jpg",
            picture=pictures.photo,
            build=_build_photo,
        ),
    )
}
