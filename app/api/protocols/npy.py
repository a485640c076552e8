"""Arrays in NumPy's file format, read without pickle and without trusting what the header claims."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np
import numpy.typing as npt

from app.errors import InvalidRequest

_EXPECTED = (
    "Expected: numpy.save of an array of numbers, [height, width, channels] or [images, height, width, channels]"
)
_MAGIC = b"\x93NUMPY"
# Bytes of the header's length, by the format's version. The third is for names of fields, which no tensor has.
_LENGTHS = {b"\x01\x00": 2, b"\x02\x00": 4}
_MOST_HEADER = 1024
_NUMBERS = re.compile(r"[<>|=]?[iuf][1248]")
# NumPy hands the header to Python's own parser, which can be made to fail in many ways. What is written there is this.
_HEADER = re.compile(
    r"\{(?:\s*(?:'descr'\s*:\s*'(?P<descr>[^']{1,64})'|'fortran_order'\s*:\s*(?P<fortran>True|False)"
    r"|'shape'\s*:\s*\((?P<shape>[0-9, ]{0,200})\))\s*,?){3}\s*\}\s*"
)


def read_npy(body: bytes) -> npt.NDArray[Any]:
    """The array that a body is; a view of it, nothing is copied.

    Raises:
        InvalidRequest: it is none, or not of one or several images' numbers, or of another length than its header says.
    """
    text, begin = _header(body)
    match = _HEADER.fullmatch(text)
    if match is None or None in match.groups():
        raise InvalidRequest(f"The header of the array cannot be read. {_EXPECTED}.")
    if _NUMBERS.fullmatch(match["descr"]) is None:
        raise InvalidRequest(f"The array is of {match['descr']!r}, which is no type of numbers. {_EXPECTED}.")
    try:
        dtype = np.dtype(match["descr"])
        shape = [int(side) for side in match["shape"].split(",") if side.strip()]
    except (TypeError, ValueError):
        raise InvalidRequest(f"The header of the array cannot be read. {_EXPECTED}.") from None
    # NumPy has no arrays of many axes, and of an empty one none can be too long to be refused by its length.
    if len(shape) not in (3, 4) or 0 in shape:
        raise InvalidRequest(f"The array has the shape {shape[:8]}. {_EXPECTED}.")
    # In Python's integers, which cannot overflow.
    wanted = math.prod(shape) * dtype.itemsize
    if len(body) - begin != wanted:
        raise InvalidRequest(
            f"The array's header says {wanted} bytes of numbers, and {len(body) - begin} follow it. {_EXPECTED}."
        )
    return np.frombuffer(body, dtype, offset=begin).reshape(shape, order="F" if match["fortran"] == "True" else "C")


def _header(body: bytes) -> tuple[str, int]:
    """The text of the header, and where the numbers begin."""
    width = _LENGTHS.get(body[6:8]) if body.startswith(_MAGIC) else None
    if width is None:
        raise InvalidRequest(f"The body is not in NumPy's file format, version 1 or 2. {_EXPECTED}.")
    begin = 8 + width
    length = int.from_bytes(body[8:begin], "little")
    if not 0 < length <= min(_MOST_HEADER, len(body) - begin):
        raise InvalidRequest(f"The array's header says that it has {length} bytes. {_EXPECTED}.")
    return body[begin : begin + length].decode("latin-1"), begin + length


def write_npy(array: npt.NDArray[Any]) -> bytes:
    """An array as `numpy.save` writes it."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=False)
    return stream.getvalue()
