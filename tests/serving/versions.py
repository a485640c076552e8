"""Puts versions into a store, sound or forged."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from app.preprocessing import Float32Array, Preprocessing, UInt8Array
from app.serving.runtimes import fake, loading
from app.serving.runtimes.base import RuntimeLoader
from app.store.manifest import Golden, Manifest, TensorSpec, UnknownThreshold
from app.store.registry import Registry

SIZE = 28
LABELS = ("horizontal", "vertical", "diagonal")

Forge = Callable[[UInt8Array, Float32Array], tuple[UInt8Array, Float32Array]]


def png(array: UInt8Array) -> bytes:
    """Encode uint8 [height, width, 1] without loss."""
    buffer = io.BytesIO()
    Image.fromarray(array[:, :, 0]).save(buffer, "PNG")
    return buffer.getvalue()


def gray(level: int) -> bytes:
    """An image of one shade. The fake takes 0 for the first class, 255 for the last."""
    return png(np.full((SIZE, SIZE, 1), level, np.uint8))


def loader(engine: str) -> RuntimeLoader:
    """The loader of an engine by its name, in f32."""
    loaders: dict[str, RuntimeLoader] = {
        "openvino": loading.load_openvino,
        "litert": loading.load_litert,
        "tensorflow": loading.load_tensorflow,
        "fake": loading.load_fake,
    }
    return loaders[engine]


def manifest(model: str = "shapes", **changes: Any) -> Manifest:
    """A manifest for the models of `saved_models` and for the fake."""
    values: dict[str, Any] = {
        "model": model,
        "labels": LABELS,
        "preprocessing": Preprocessing(height=SIZE, width=SIZE, color="grayscale"),
        "input": TensorSpec(name="image", dtype="uint8", shape=(-1, SIZE, SIZE, 1)),
        "output": TensorSpec(name="probabilities", dtype="float32", shape=(-1, 3)),
        "golden": Golden(images=["0.png", "1.png"]),
        "created_at": datetime.now(UTC),
        "created_by": "test",
    }
    return Manifest(**(values | changes))


LOGITS = {"output": TensorSpec(name="logits", dtype="float32", shape=(-1, 3)), "activation": "softmax"}
UNKNOWN: dict[str, Any] = {"unknown": UnknownThreshold(threshold=0.6, coverage=0.95, accuracy=0.99, images=100)}
"""The fake is surer than that of black and white, and less sure of what is between."""
SCALED: dict[str, Any] = {
    "preprocessing": Preprocessing(height=SIZE, width=SIZE, color="grayscale", scaling="0..1"),
    "input": TensorSpec(name="image", dtype="float32", shape=(-1, SIZE, SIZE, 1)),
}


def add_version(
    registry: Registry,
    model: str = "shapes",
    *,
    saved_model: Path | None = None,
    promote: bool = False,
    forge: Forge | None = None,
    images: Sequence[bytes] | None = None,
    **changes: Any,
) -> int:
    """Register a version; returns its number.

    Without `saved_model` it is one for the fake runtime. `forge` changes what golden/expected.npz
    says, `images` the golden images themselves, `changes` the manifest.
    """
    if saved_model is None:
        arrays = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 1), np.uint8)
        probabilities = fake.probabilities(arrays, len(LABELS))
    else:
        with np.load(saved_model / "reference.npz") as reference:
            arrays, probabilities = reference["images"][:2], reference["probabilities"][:2]
    encoded = images or [png(array) for array in arrays]
    if forge is not None:
        arrays, probabilities = forge(arrays, probabilities)
    with registry.staging() as folder:
        if saved_model is not None:
            shutil.copytree(saved_model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("reference.npz"))
        (folder / "golden").mkdir()
        for index, data in enumerate(encoded):
            (folder / "golden" / f"{index}.png").write_bytes(data)
        np.savez(folder / "golden" / "expected.npz", images=arrays, probabilities=probabilities)
        version = registry.register(folder, manifest(model, **changes))
    if promote:
        registry.promote(model, version, by="test")
    return version
