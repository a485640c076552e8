"""From what `Runtime.predict` is given to what a graph takes."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt

from app.preprocessing import Float32Array, Preprocessing, UInt8Array, scale
from app.serving.runtimes.base import Batch


def scaled(batch: Batch, spec: Preprocessing) -> Batch:
    """A batch in the range of values that the graph takes. One of float32 is so already."""
    return cast(Float32Array, batch) if batch.dtype == np.float32 else scale(cast(UInt8Array, batch), spec)


def to_input(batch: Batch, spec: Preprocessing, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """A batch in the graph's range and dtype.

    Returns memory that engines can read in place, contiguous and writable: the batch itself where it is so already.
    """
    values: npt.NDArray[Any] = np.ascontiguousarray(scaled(batch, spec), dtype=dtype)
    return values if values.flags.writeable else values.copy()
