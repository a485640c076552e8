"""JSON bodies, and the encoded images that travel in them as `{"b64": "..."}`."""

from __future__ import annotations

import binascii
from array import array
from collections.abc import Mapping
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from app.api.bodies import printable
from app.api.ways import Head
from app.errors import InvalidRequest, PayloadTooLarge

# What JSON takes while it is parsed and when it is Python's, and its numbers an array besides: by the signs in it, for
# no value is without one. Measured.
_SIGNS = {b"{": 256, b"[": 96, b",": 80, b":": 16}
# Of a byte of a string: as such, without its lines, and decoded. Python's strings are as wide as their widest sign.
_ASCII_BYTES, _WIDE_BYTES = 3, 6

_BLANKS = " \n\r\t"
AS_INSTANCE = 'Send images in base64: {"instances": [{"b64": "..."}]}.'

_GZIP = b"\x1f\x8b"
_KINDS = {
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89PNG": "a PNG image",
    b"RIFF": "a WebP image",
    b"GIF8": "a GIF image",
    b"BM": "a BMP image",
    b"II*\x00": "a TIFF image",
    b"MM\x00*": "a TIFF image",
}
"""What bodies are that people send in place of JSON, by how they begin; none of these is how JSON does."""
# Where the parser stops at them: at their beginning, or behind the sign.
_NO_NUMBERS = (("NaN", 0), ("Infinity", 0), ("-Infinity", 0), ("-Infinity", 1))

# Of an image there are three.
_MOST_DIMENSIONS = 8


def weight(body: bytes, end: int | None = None) -> int:
    """Bytes of memory that JSON may take when it is parsed, and its images are decoded from base64.

    Args:
        end: where it ends; None: with the body.
    """
    values = sum(body.count(sign, 0, end) * size for sign, size in _SIGNS.items())
    width = _ASCII_BYTES if body.isascii() else _WIDE_BYTES
    return values + (len(body) if end is None else end) * width


def json_weight(_head: Head, body: bytes) -> int:
    """`weight`, of bodies that are JSON; for `app.api.ways.Way`."""
    return weight(body)


def check_head(headers: Mapping[str, str]) -> None:
    """Refuse bodies that are said to be something else than what the protocol's own clients send.

    Raises:
        InvalidRequest: naming the header.
    """
    encoding = headers.get("content-encoding", "identity").lower()
    if encoding != "identity":
        raise InvalidRequest(f"Content-Encoding {printable(encoding[:40])!r} is not supported. Send the body as it is.")
    if headers.get("content-type", "").lower().startswith("application/cloudevents"):
        raise InvalidRequest(
            "CloudEvents in structured mode are not supported. Send them in binary mode: the event's attributes as "
            "headers, Content-Type: application/json, and the data alone as the body."
        )


def parse_object(body: bytes, instead: str = AS_INSTANCE) -> dict[str, Any]:
    """The object that a body is.

    Args:
        instead: how an image is to be sent, for those who send it bare.

    Raises:
        InvalidRequest: it is something else.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(_no_json(body, error, instead)) from None
    if not isinstance(document, dict):
        raise InvalidRequest("The body has to be a JSON object.")
    return document


def _no_json(body: bytes, error: orjson.JSONDecodeError, instead: str) -> str:
    """What a body is that is not JSON, in words."""
    for begin, kind in _KINDS.items():
        if body.startswith(begin):
            return f"The body is not JSON: it is {kind}. {instead}"
    if body.startswith(_GZIP):
        return "The body is not JSON: it is compressed, by gzip. Send it as it is."
    if not body:
        return "The body is not JSON: it is empty."
    if "UTF-8" in error.msg:
        return "The body is not JSON: it is not UTF-8 text."
    if any(error.doc.startswith(word, max(0, error.pos - back)) for word, back in _NO_NUMBERS):
        return f"The body is not JSON, which has neither NaN nor Infinity: {error}."
    return f"The body is not JSON: {error}."


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
        data = text.encode("ascii")
        if any(map(text.__contains__, _BLANKS)):
            data = data.translate(None, _BLANKS.encode())
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except UnicodeEncodeError:
        raise InvalidRequest(f"{where} is not base64: it has other characters than those of ASCII.") from None
    except ValueError as error:
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
