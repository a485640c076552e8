"""PNGs of all kinds, put together chunk by chunk, and what both ways of decoding make of them."""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise, product
from random import Random

import pytest

from app import png
from app.preprocessing import MAX_PIXELS, Preprocessing, to_array
from tests.preprocessing.images import oriented, png_chunk

Outcome = tuple[str, ...] | tuple[bytes, str, bool, bool]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = png_chunk(b"IEND", b"")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
SPECS = [
    Preprocessing(height=height, width=width, color=color, fit=fit)
    for (height, width), color, fit in product([(9, 12), (5, 5)], ["rgb", "grayscale"], ["stretch", "crop", "pad"])
]
HARMLESS = [
    png_chunk(b"gAMA", struct.pack(">I", 45455)),
    png_chunk(b"cHRM", bytes(32)),
    png_chunk(b"sRGB", b"\0"),
    png_chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    png_chunk(b"sBIT", b"\x08\x08\x08"),
    png_chunk(b"bKGD", bytes(6)),
    png_chunk(b"tIME", b"\x07\xea\x0b\x16\x16\x20\x0d"),
]
XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><a tiff:Orientation="6"/></x:xmpmeta>'
EXIF = oriented(6).tobytes()
PROFILE_NAME = b"Raw profile type exif\0"
PROFILE = b"\nexif\n" + str(len(EXIF)).encode() + b"\n" + EXIF.hex().encode()
OTHERS = {
    "colour key": png_chunk(b"tRNS", bytes((0, 20, 0, 20, 0, 20))),
    "colour key cut short": png_chunk(b"tRNS", b"\0"),
    "palette": png_chunk(b"PLTE", bytes(range(30))),
    "exif": png_chunk(b"eXIf", EXIF[6:]),
    "xmp": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "xmp as plain text": png_chunk(b"tEXt", b"XML:com.adobe.xmp\0" + XMP),
    "exif in a comment": png_chunk(b"tEXt", PROFILE_NAME + PROFILE),
    "exif in a compressed comment": png_chunk(b"zTXt", PROFILE_NAME + b"\0" + zlib.compress(PROFILE)),
    "a comment called transparency": png_chunk(b"tEXt", b"transparency\x0020"),
    "a comment called interlace": png_chunk(b"tEXt", b"interlace\x001"),
    "a comment called bbox": png_chunk(b"tEXt", b"bbox\x001"),
    "a comment": png_chunk(b"tEXt", b"Software\0of no interest"),
    "colour profile": png_chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(200))),
    "animation": png_chunk(b"acTL", struct.pack(">II", 2, 0)),
    "frame": png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 6, 4, 1, 1, 1, 10, 0, 0)),
    "gamma cut short": png_chunk(b"gAMA", bytes(3)),
    "resolution cut short": png_chunk(b"pHYs", bytes(8)),
    "chromaticities cut short": png_chunk(b"cHRM", bytes(31)),
    "rendering intent cut short": png_chunk(b"sRGB", b""),
    "second header": png_chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 8, 2, 0, 0, 0)),
    "end": END,
    "unknown": png_chunk(b"prVt", b"private"),
    "unknown and critical": png_chunk(b"ABCD", b"?"),
    "no name": png_chunk(b"\0\0\0\0", b""),
    "wrong checksum": png_chunk(b"gAMA", bytes(4))[:-1] + b"\0",
    "length beyond the file": struct.pack(">I", 2**32 - 1) + b"gAMA" + bytes(8),
}


def _outcome(data: bytes, spec: Preprocessing, max_pixels: int) -> Outcome:
    try:
        array = to_array(data, spec, max_pixels=max_pixels)
    except Exception as error:
        return (type(error).__name__, str(error))
    assert array.shape == spec.shape
    return (array.tobytes(), str(array.dtype), array.flags.c_contiguous, array.flags.writeable)


def goes_the_short_way(data: bytes, *, max_pixels: int = MAX_PIXELS, spec: Preprocessing | None = None) -> bool:
    """Compare both ways; tell whether the short one was really taken."""
    for each in SPECS if spec is None else [spec]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(png, "decode", lambda *_: None)
            expected = _outcome(data, each, max_pixels)
        assert _outcome(data, each, max_pixels) == expected, (each, data.hex())
    return png.decode(data, max_pixels) is not None


def file_of(
    compressed: bytes,
    *,
    size: tuple[int, int] = (12, 9),
    kind: tuple[int, int, int, int, int] = (8, 2, 0, 0, 0),
    before: bytes = b"",
    after: bytes = b"",
    cuts: tuple[int, ...] = (),
) -> bytes:
    """A PNG of (width, height), its data cut into chunks; `kind` is the rest of the header."""
    places = [0, *cuts, len(compressed)]
    chunks = [png_chunk(b"IDAT", compressed[a:b]) for a, b in pairwise(places)]
    header = png_chunk(b"IHDR", struct.pack(">II5B", *size, *kind))
    return SIGNATURE + header + before + b"".join(chunks) + after + END


def noise(random: Random, size: tuple[int, int], bits: int, *, filters: int = 4, interlaced: bool = False) -> bytes:
    """What the header promises: rows of noise with random filters, in seven passes where interlaced."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, across, down in passes:
        width, height = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        if width > 0 and height > 0:
            length = (width * bits + 7) // 8
            rows += b"".join(bytes([random.randint(0, filters)]) + random.randbytes(length) for _ in range(height))
    return rows


PIXELS = zlib.compress(noise(Random(0), (12, 9), 24))
