"""Golden examples: what a version must answer to a few images, wherever it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from app.errors import TrainingFailed
from app.preprocessing import Float32Array, Preprocessing, UInt8Array, to_array
from app.store.manifest import GOLDEN, Golden

EXPECTED = "expected.npz"


def write_golden(
    folder: Path,
    encoded: list[tuple[str, bytes]],
    spec: Preprocessing,
    predict: Callable[[UInt8Array], Float32Array],
) -> Golden:
    """Write `golden/` into a staged version and return its entry in the manifest.

    Args:
        folder: the staged version; `golden/` must not exist in it.
        encoded: names (plain file names, unique) and encoded images, at least one.
        spec: the version's preprocessing.
        predict: uint8 [n, height, width, channels], not scaled, to probabilities
            float32 [n, classes]: the reference that every runtime is compared with.

    Raises:
        InvalidImage: one of the images cannot be decoded.
        TrainingFailed: there is no image, or the answers are no probabilities.
    """
    if not encoded:
        raise TrainingFailed("A version needs at least one golden example; there are none.")
    golden = folder / GOLDEN
    golden.mkdir()
    for name, data in encoded:
        if name == EXPECTED or Path(name).name != name:
            raise ValueError(f"not a plain file name for a golden example: {name!r}")
        with (golden / name).open("xb") as file:
            file.write(data)
    images = np.stack([to_array(data, spec) for _, data in encoded])
    probabilities = np.asarray(predict(images), np.float32)
    _check(probabilities, len(encoded))
    np.savez(golden / EXPECTED, images=images, probabilities=probabilities)
    return Golden(images=[name for name, _ in encoded])


def _check(probabilities: Float32Array, count: int) -> None:
    if probabilities.ndim != 2 or len(probabilities) != count:
        raise TrainingFailed(f"The model answered {count} golden examples with shape {list(probabilities.shape)}.")
    if not np.isfinite(probabilities).all():
        raise TrainingFailed("The model answered the golden examples with numbers that are not finite.")
    if (probabilities < 0).any() or not np.allclose(probabilities.sum(axis=1), 1, atol=1e-3):
        raise TrainingFailed("The model answered the golden examples with rows that do not sum to 1.")
