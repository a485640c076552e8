"""Images that come as the numbers which the graph takes, and not as encoded files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from app.errors import InvalidRequest
from app.preprocessing import Float32Array, UInt8Array
from app.store.manifest import Manifest

TENSOR = "image"
"""What the input may be called whatever the version's graph calls it."""
PROBABILITIES = "probabilities"
"""What the output may be called likewise."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One image that its sender has preprocessed."""

    values: npt.NDArray[Any]
    """[height, width, channels]; may be a view of the request's body."""
    typed: bool
    """Whether the sender said of which type they are. Numbers of JSON are of none: they must only fit."""


Image = bytes | Tensor
"""An encoded file, or a tensor."""


def size(image: Image) -> int:
    """Bytes that an image takes."""
    return len(image) if isinstance(image, bytes) else image.values.nbytes


def output_name(manifest: Manifest) -> str:
    """What the version's graph calls its output; `probabilities` where they are made of what it puts out."""
    return manifest.output.name if manifest.activation == "none" else PROBABILITIES


def fit_input(tensor: Tensor, manifest: Manifest) -> UInt8Array | Float32Array:
    """The values as the version's graph takes them, uint8 or float32 [height, width, channels]; no copy where they are.

    Raises:
        InvalidRequest: their shape or type is another, or one is not finite; the message says what is expected.
    """
    values, shape, wanted = tensor.values, manifest.preprocessing.shape, np.dtype(manifest.input.dtype)
    expected = f"{manifest.model} takes {wanted.name} {list(shape)} for each image, preprocessed"
    if values.shape != shape:
        raise InvalidRequest(f"The tensor of an image has the shape {list(values.shape)}; {expected}.")
    if values.dtype != wanted and (tensor.typed or values.dtype.kind not in "iuf"):
        raise InvalidRequest(f"The tensor of an image is {values.dtype.name}; {expected}.")
    if wanted.kind == "f":
        with np.errstate(over="ignore"):
            floats: Float32Array = values.astype(np.float32, copy=False)
        if not np.isfinite(floats).all():
            raise InvalidRequest(
                "The tensor of an image holds numbers that are not finite in float32 (NaN, infinity, or too large); "
                f"{expected}."
            )
        return floats
    if values.dtype == wanted:
        return values
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.uint8)
    if not np.array_equal(whole, values):
        raise InvalidRequest(f"The tensor of an image holds other numbers than whole ones from 0 to 255; {expected}.")
    return whole
