"""From what `Runtime.predict` is given to what a graph takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from app.preprocessing import Preprocessing, UInt8Array, scale


def to_input(batch: UInt8Array, spec: Preprocessing, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Scale a batch, uint8 [n, height, width, channels], to the graph's dtype.

    Returns memory that engines can read in place, contiguous and writable: the batch itself where it is so already.
    """
    values: npt.NDArray[Any] = np.ascontiguousarray(scale(batch, spec), dtype=dtype)
    return values if values.flags.writeable else values.copy()
