"""The way of a small, plain PNG to its pixels, past Pillow's general one.

Pillow finds a file's format, reads it chunk by chunk and looks for metadata in Python: of a picture of 28 x 28 pixels
that takes several times as long as the pixels do. Here the container is read by hand, and Pillow's own decoder is
given the very bytes that it would get the general way, in one piece as there. What comes of it is therefore the same.

Whatever is not known to be plain is left to the general way, and so is every error: there it gets its name. The format:
https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from PIL import Image, ImageFile

# The chunk that ends every PNG: length 0, name, checksum.
END: Final = b"\0\0\0\0IEND\xaeB`\x82"

# The signature, and the length and name of the chunk that must come first.
_START: Final = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR"
# Width, height, the five bytes below, checksum.
_HEADER: Final = struct.Struct(">II5sI")
# Bit depth, colour type, compression, filter, interlacing; and what Pillow calls it.
_MODES: Final = {bytes((8, 0, 0, 0, 0)): "L", bytes((8, 2, 0, 0, 0)): "RGB"}
_CHUNK: Final = struct.Struct(">I4s")
_CHECKSUM: Final = struct.Struct(">I")
_FIRST_CHUNK: Final = len(_START) + _HEADER.size

# Chunks that say nothing about how the pixels are read, and the bytes that Pillow wants to see in them. Not among
# them: transparency, palettes, animation, and all text, which may hold an orientation, or bear a name by which Pillow
# takes it for something else.
_HARMLESS: Final = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1, b"pHYs": 9, b"sBIT": 0, b"bKGD": 0, b"tIME": 0}

# With more pixels than these what is saved here no longer counts.
_MAX_PIXELS: Final = 1_000_000


def decode(data: bytes, max_pixels: int) -> Image.Image | None:
    """Decode a plain PNG: grey or RGB of 8 bits a channel, not interlaced, its data in one small chunk.

    Returns the image, of mode L or RGB, as `Image.open` and `load` would make it; None where the file is anything
    else, is damaged, or has more than `max_pixels`. No error is raised for it, and no more memory taken than for
    the pixels that the header claims.
    """
    if not data.startswith(_START) or not data.endswith(END) or len(data) < _FIRST_CHUNK + len(END):
        return None
    width, height, kind, checksum = _HEADER.unpack_from(data, len(_START))
    mode = _MODES.get(kind)
    if mode is None or not 0 < width * height <= min(max_pixels, _MAX_PIXELS):
        return None
    if zlib.crc32(data[12 : _FIRST_CHUNK - 4]) != checksum:
        return None
    compressed = _only_pixel_data(data)
    if compressed is None:
        return None
    try:
        return Image.frombytes(mode, (width, height), compressed, "zip", mode)
    except ValueError:
        return None


def _only_pixel_data(data: bytes) -> bytes | None:
    """The body of the one IDAT chunk, where nothing but harmless chunks comes before it and only the end after."""
    end = len(data) - len(END)
    at = _FIRST_CHUNK
    while True:
        # `at` is never behind `end`, so there is always a chunk to read, if only the last.
        length, name = _CHUNK.unpack_from(data, at)
        start, stop = at + 8, at + 8 + length
        at = stop + 4
        if at > end:
            return None
        if name == b"IDAT":
            # The general way hands the decoder a block at a time, or a chunk where that is less. Only in one piece
            # it is the same bytes; and their checksum, like there, is not looked at: the compressed data has its own.
            return data[start:stop] if at == end and length <= ImageFile.MAXBLOCK else None
        needed = _HARMLESS.get(name)
        if needed is None or length < needed:
            return None
        if zlib.crc32(data[start - 4 : stop]) != _CHECKSUM.unpack_from(data, stop)[0]:
            return None
