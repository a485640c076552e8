"""The size that a WebP claims, read before Pillow opens it.

Opening one makes libwebp's decoder for animations, with two canvases of four bytes a pixel, whatever becomes of the
file: of a few kilobytes that can be gigabytes. The format: https://developers.google.com/speed/webp/docs/riff_container
and RFC 9649.
"""

from __future__ import annotations

from typing import Final

_RIFF: Final = slice(0, 4)
_KIND: Final = slice(8, 16)
# As far as the size reaches in the longest of the three kinds.
_HEAD_BYTES: Final = 30
_14_BITS: Final = 0x3FFF


def size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of the canvas in pixels, as the header says; None where the file is no WebP, or too short."""
    if data[_RIFF] != b"RIFF" or len(data) < _HEAD_BYTES:
        return None
    match data[_KIND]:
        case b"WEBPVP8X":  # extended: 24 bits each, less one
            return _number(data, 24, 3) + 1, _number(data, 27, 3) + 1
        case b"WEBPVP8L":  # lossless: 14 bits each, less one
            packed = _number(data, 21, 4)
            return (packed & _14_BITS) + 1, (packed >> 14 & _14_BITS) + 1
        case b"WEBPVP8 ":  # lossy: 14 bits each, of which two more say how a viewer may enlarge it
            return _number(data, 26, 2) & _14_BITS, _number(data, 28, 2) & _14_BITS
    return None


def _number(data: bytes, start: int, length: int) -> int:
    return int.from_bytes(data[start : start + length], "little")
