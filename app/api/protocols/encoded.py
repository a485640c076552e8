"""JSON bodies, and the encoded images that travel in them as `{"b64": "..."}`."""

from __future__ import annotations

import binascii
from array import array
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from app.errors import InvalidRequest, PayloadTooLarge

# What nested lists of numbers take, a byte of their text, when they are Python's: `[[],[],` is the worst.
GROWTH = 24

# Of an image there are three.
_MOST_DIMENSIONS = 8


def parse_object(body: bytes) -> dict[str, Any]:
    """The object that a body is.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.") from None
    if not isinstance(document, dict):
        raise InvalidRequest("The body has to be a JSON object.")
    return document


def is_encoded(value: object) -> bool:
    """Whether a value is an object that stands for bytes: `b64` is its only key."""
    return isinstance(value, dict) and value.keys() == {"b64"}


def decode(value: dict[str, Any], where: str) -> bytes:
    """The bytes that such an object stands for.

    Raises:
        InvalidRequest: naming `where` it is.
    """
    text = value["b64"]
    if not isinstance(text, str):
        raise InvalidRequest(f'{where}: "b64" has to be a string.')
    return from_base64(text, f'{where}: "b64"')


def from_base64(text: str, where: str) -> bytes:
    """The bytes that base64 stands for.

    Raises:
        InvalidRequest: it is none; naming `where`.
    """
    try:
        # Some write lines, and web clients leave the padding out.
        stripped = "".join(text.split()) if not text.isascii() or any(map(text.__contains__, " \n\r\t")) else text
        if missing := -len(stripped) % 4:
            stripped += "=" * missing
        return binascii.a2b_base64(stripped, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"{where} is not base64: {error}.") from None


def to_array(value: object, where: str) -> npt.NDArray[np.float64]:
    """Nested lists of numbers as an array.

    Not by NumPy, which would take strings too, each in as much room as the longest of them.

    Raises:
        InvalidRequest: they are ragged, or hold something else; naming `where`.
    """
    shape: list[int] = []
    level: list[Any] = [value]
    while level and isinstance(level[0], list):
        if set(map(type, level)) != {list} or len(lengths := set(map(len, level))) != 1:
            raise InvalidRequest(f"{where}: the lists of a tensor have to be of equal lengths.")
        shape += lengths
        level = [*chain.from_iterable(level)]
    try:
        flat = array("d", level)
    except (TypeError, OverflowError):
        raise InvalidRequest(
            f"{where}: a tensor is nested lists of numbers, of equal lengths; an encoded image is an object with b64."
        ) from None
    if len(shape) > _MOST_DIMENSIONS:
        raise InvalidRequest(f"{where}: the lists of a tensor are nested {len(shape)} deep.")
    return np.frombuffer(flat, np.float64).reshape(shape)


def check_count(count: int, most: int) -> None:
    """Refuse more images than a request may have.

    Raises:
        PayloadTooLarge: with the number that is allowed.
    """
    if count > most:
        raise PayloadTooLarge(f"The request has {count} images; {most} are allowed in one.")
