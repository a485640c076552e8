"""Encoded images for the tests: through Pillow where it writes them, by hand where it does not."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from app.preprocessing import Preprocessing, UInt8Array, to_array

RED = (255, 0, 0)
WHITE = (255, 255, 255)

# The six formats as Pillow's save() knows them, with options that make the small ones exact.
LOSSLESS: dict[str, dict[str, Any]] = {"PNG": {}, "WEBP": {"lossless": True}, "BMP": {}, "TIFF": {}}


def encode(image: Image.Image | np.ndarray[Any, Any], format_: str, **options: Any) -> bytes:
    """The image as a file; arrays are uint8 or uint16 [height, width(, 3)]."""
    picture = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    picture.save(file, format_, **options)
    return file.getvalue()


def pattern(height: int, width: int) -> UInt8Array:
    """RGB test picture without any symmetry, the same on every machine: [height, width, 3]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    channels = [(7 * x + 3 * y) % 256, (x * y + 11 * x) % 256, (5 * y + 255 - 2 * x) % 256]
    return np.stack(channels, axis=-1).astype(np.uint8)


def smooth(height: int, width: int) -> UInt8Array:
    """RGB picture with gentle slopes, as photographs mostly have: [height, width, 3]."""
    y = np.linspace(0, 1, height)[:, None]
    x = np.linspace(0, 1, width)[None, :]
    channels = [255 * x * y, 255 * x * (1 - y), 127.5 + 127.5 * np.sin(6 * x + 4 * y)]
    return np.stack([np.broadcast_to(c, (height, width)) for c in channels], axis=-1).astype(np.uint8)


def pixels(data: bytes, height: int, width: int, *, grayscale: bool = False) -> list[Any]:
    """What `to_array` makes of it at its own size, as lists: [height][width][channels]."""
    spec = Preprocessing(height=height, width=width, color="grayscale" if grayscale else "rgb")
    array: list[Any] = to_array(data, spec).tolist()
    return array


def pixel(data: bytes, *, grayscale: bool = False) -> list[int]:
    """The one pixel of a uniform image."""
    values: list[int] = pixels(data, 1, 1, grayscale=grayscale)[0][0]
    return values


# PNG by hand: bit depths, colour keys and headers that Pillow does not write.


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(
    size: tuple[int, int], depth: int, color_type: int, rows: bytes, *, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG of (width, height); `rows` include the filter bytes; `before` and `after` are chunks around the data."""
    header = struct.pack(">IIBBBBB", *size, depth, color_type, 0, 0, 0)
    data = png_chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + before + data + after + png_chunk(b"IEND", b"")


# TIFF by hand: photometric interpretations and sample formats that Pillow only reads.


def tiff(
    size: tuple[int, int],
    data: bytes,
    *,
    bits: Sequence[int] = (8,),
    photometric: int = 1,
    extra_samples: Sequence[int] = (),
    sample_format: int = 1,
    color_map: Sequence[int] = (),
    planes: int = 1,
) -> bytes:
    """An uncompressed little-endian TIFF of (width, height) with one strip for each of its planes."""
    tags: dict[int, Sequence[int]] = {
        256: [size[0]],
        257: [size[1]],
        258: bits,
        259: [1],
        262: [photometric],
        273: [0] * planes,  # the strips' places, filled in below
        277: [len(bits)],
        278: [size[1]],
        279: [len(data) // planes] * planes,
        284: [2 if planes > 1 else 1],
        339: [sample_format] * len(bits),
    }
    if extra_samples:
        tags[338] = extra_samples
    if color_map:
        tags[320] = color_map
    tail_at = 8 + 2 + 12 * len(tags) + 4
    data_at = tail_at + sum(2 * len(values) for values in tags.values() if len(values) > 2)
    tags[273] = [data_at + i * (len(data) // planes) for i in range(planes)]
    tails = {tag: struct.pack(f"<{len(v)}H", *v) for tag, v in tags.items() if len(v) > 2}
    entries = b""
    for tag in sorted(tags):
        values = tags[tag]
        if tag in tails:
            field = struct.pack("<I", tail_at)
            tail_at += len(tails[tag])
        else:
            field = struct.pack(f"<{len(values)}H", *values).ljust(4, b"\0")
        entries += struct.pack("<HHI", tag, 3, len(values)) + field
    directory = struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    return b"II*\0" + struct.pack("<I", 8) + directory + b"".join(tails[tag] for tag in sorted(tails)) + data


def oriented(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif
