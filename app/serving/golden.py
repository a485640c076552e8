"""Replaying a version's golden examples: the check that it answers here as it did where it was made.

All reasons for a refusal are `VersionRefused`, worded to follow "Version 3 of cifar10 is refused: ".
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.errors import InferenceFailed, InvalidImage, VersionRefused
from app.preprocessing import Float32Array, UInt8Array, to_array
from app.serving.runtimes.base import Runtime
from app.store.manifest import GOLDEN, Manifest, Precision

EXPECTED = "expected.npz"

# Builds of the JPEG decoder and of the resize filter may round differently; more is another algorithm.
MAX_DECODER_DIFFERENCE = 2
# float32 softmax over thousands of classes is off by some 1e-6; a sigmoid, or logits, by far more.
ROW_SUM_TOLERANCE = 1e-3
_BATCH = 32


@dataclass(frozen=True)
class Expected:
    """`golden/expected.npz`."""

    images: UInt8Array
    """uint8 [n, height, width, channels]"""
    probabilities: Float32Array
    """float32 [n, classes]"""


def read_expected(folder: Path, manifest: Manifest) -> Expected:
    """Read what the trainer computed, and check that it fits the manifest."""
    try:
        with np.load(folder / GOLDEN / EXPECTED, allow_pickle=False) as arrays:
            images, probabilities = arrays["images"], arrays["probabilities"]
    except FileNotFoundError as error:
        raise VersionRefused(f"it has no {GOLDEN}/{EXPECTED}.") from error
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise VersionRefused(f"its {GOLDEN}/{EXPECTED} cannot be read: {error}.") from error
    count = len(manifest.golden.images)
    for name, array, shape, dtype in (
        ("images", images, (count, *manifest.preprocessing.shape), np.uint8),
        ("probabilities", probabilities, (count, len(manifest.labels)), np.float32),
    ):
        if array.shape != shape or array.dtype != dtype:
            raise VersionRefused(
                f"`{name}` in its {GOLDEN}/{EXPECTED} is {array.dtype} {list(array.shape)}; its manifest, with {count} "
                f"golden examples and {len(manifest.labels)} labels, asks for {np.dtype(dtype)} {list(shape)}."
            )
    return Expected(images, probabilities)


def decoder_difference(folder: Path, manifest: Manifest, expected: Expected) -> int:
    """Decode the golden images as requests are decoded, and compare.

    Returns the largest difference of any pixel, in levels of 255: at most `MAX_DECODER_DIFFERENCE`.
    """
    largest = 0
    for name, wanted in zip(manifest.golden.images, expected.images, strict=True):
        if f"{GOLDEN}/{name}" not in manifest.files:
            raise VersionRefused(f"its manifest names a golden example {name!r}, but not among its files.")
        try:
            found = to_array((folder / GOLDEN / name).read_bytes(), manifest.preprocessing)
        except InvalidImage as error:
            raise VersionRefused(f"its golden example {name!r} cannot be decoded: {error}") from error
        difference = int(np.abs(found.astype(np.int16) - wanted).max(initial=0))
        if difference > MAX_DECODER_DIFFERENCE:
            raise VersionRefused(
                f"decoding its golden example {name!r} gives pixels that differ from the trainer's by up to "
                f"{difference} levels; at most {MAX_DECODER_DIFFERENCE} are allowed. Its preprocessing is not the one "
                "that it was trained with."
            )
        largest = max(largest, difference)
    return largest


def check_answers(runtime: Runtime, manifest: Manifest, expected: Expected, *, precision: Precision = "f32") -> None:
    """Compare the engine's answers to the expected images with the expected probabilities.

    They may differ by what the manifest allows in that precision.
    """
    tolerance = manifest.golden.allowed(precision)
    try:
        # Also the warm-up: of one image, on all threads where the engine can, and of a larger batch.
        single = runtime.predict(expected.images[:1], alone=True)
        answers = [runtime.predict(chunk) for chunk in _chunks(expected.images)]
    except InferenceFailed as error:
        raise VersionRefused(f"it cannot answer its golden examples. {error}") from error
    for answer in (single, *answers):
        _check_form(answer, manifest)
    found = np.concatenate(answers)
    _check_close(found, expected.probabilities, tolerance, manifest, "the trainer's")
    _check_close(single, found[:1], tolerance, manifest, "those that it gives in a batch")


def _chunks(images: UInt8Array) -> list[UInt8Array]:
    return [images[start : start + _BATCH] for start in range(0, len(images), _BATCH)]


def _check_form(answer: Float32Array, manifest: Manifest) -> None:
    if answer.ndim != 2 or answer.shape[1] != len(manifest.labels):
        raise VersionRefused(f"it has {len(manifest.labels)} labels, but its output is {list(answer.shape)}.")
    if not np.isfinite(answer).all():
        raise VersionRefused("it answers its golden examples with numbers that are not finite (NaN or infinite).")
    sums = answer.sum(axis=1)
    if (answer < 0).any() or np.abs(sums - 1).max(initial=0) > ROW_SUM_TOLERANCE:
        raise VersionRefused(
            f"its outputs are no probabilities: they range from {answer.min():.4g} to {answer.max():.4g}, and sum to "
            f"between {sums.min():.4g} and {sums.max():.4g} instead of 1."
        )


def _check_close(found: Float32Array, wanted: Float32Array, tolerance: float, manifest: Manifest, whose: str) -> None:
    differences = np.abs(found - wanted)
    worst = int(differences.max(axis=1).argmax())
    # Written so that an expected value that is not a number is a difference too.
    if not differences.max() <= tolerance:
        raise VersionRefused(
            f"its answer to the golden example {manifest.golden.images[worst]!r} differs from {whose} by "
            f"{differences[worst].max():.2g}; at most {tolerance:.2g} is allowed."
        )
