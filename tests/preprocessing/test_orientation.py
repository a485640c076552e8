"""Pictures come out upright, whatever way round the camera stored them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin

from app.preprocessing import Preprocessing, UInt8Array, to_array
from tests.preprocessing.images import LOSSLESS, encode, oriented, pattern, pixels, png, png_chunk, smooth

# How each orientation is stored, given the upright picture (EXIF 2.32, 4.6.4 A): the inverse of what a viewer does.
STORED: dict[int, Callable[[UInt8Array], UInt8Array]] = {
    1: lambda up: up,
    2: lambda up: up[:, ::-1],
    3: lambda up: up[::-1, ::-1],
    4: lambda up: up[::-1],
    5: lambda up: up.transpose(1, 0, 2),
    6: lambda up: np.rot90(up, 1),
    7: lambda up: up[::-1, ::-1].transpose(1, 0, 2),
    8: lambda up: np.rot90(up, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_each_orientation_is_turned_upright_exactly(format_: str, orientation: int) -> None:
    """A lossless picture with any EXIF orientation comes out as the upright picture, pixel for pixel."""
    upright = pattern(8, 12)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    data = encode(stored, format_, exif=oriented(orientation), **LOSSLESS[format_])
    assert np.array_equal(to_array(data, Preprocessing(height=8, width=12)), upright)


@pytest.mark.parametrize("orientation", STORED)
def test_jpegs_are_turned_upright(orientation: int) -> None:
    """A JPEG with any EXIF orientation comes out as the upright picture, up to what JPEG loses."""
    upright = smooth(48, 80)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    data = encode(stored, "JPEG", quality=95, subsampling=0, exif=oriented(orientation))
    array = to_array(data, Preprocessing(height=48, width=80))
    assert np.abs(array.astype(int) - upright).max() <= 8


@pytest.mark.parametrize("orientation", STORED)
def test_large_jpegs_are_decoded_small_in_their_stored_orientation(
    orientation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long picture that is stored lying down is still decoded at a reduced scale, and comes out upright."""
    decoded: list[tuple[int, int]] = []
    load = JpegImagePlugin.JpegImageFile.load

    def spy(image: JpegImagePlugin.JpegImageFile) -> Any:
        decoded.append(image.size)
        return load(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", spy)
    upright = smooth(1600, 400)
    stored = np.ascontiguousarray(STORED[orientation](upright))
    data = encode(stored, "JPEG", quality=95, exif=oriented(orientation))
    array = to_array(data, Preprocessing(height=160, width=40))
    assert sorted(decoded[0]) == [100, 400]
    expected = np.asarray(Image.fromarray(upright).resize((40, 160), Image.Resampling.BILINEAR))
    assert np.abs(array.astype(int) - expected).max() <= 6


def test_orientation_after_the_pixels_of_a_png_counts() -> None:
    """PNG allows the EXIF chunk after the image data; it turns the picture all the same."""
    exif = png_chunk(b"eXIf", oriented(3).tobytes().removeprefix(b"Exif\0\0"))
    data = png((2, 1), 8, 0, bytes([0, 10, 200]), after=exif)
    assert pixels(data, 1, 2, grayscale=True) == [[[200], [10]]]


@pytest.mark.parametrize("value", [0, 9, 255, 65535])
def test_orientations_that_do_not_exist_are_upright(value: int) -> None:
    """Numbers other than 1 to 8 say nothing, and the picture stays as it is stored."""
    upright = pattern(4, 6)
    data = encode(upright, "PNG", exif=oriented(value))
    assert np.array_equal(to_array(data, Preprocessing(height=4, width=6)), upright)


def _exif_with(type_: int, count: int, field: bytes) -> bytes:
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, type_, count) + field + b"\0\0\0\0"


MALFORMED = {
    "no TIFF header": b"Exif\0\0nonsense",
    "header only": b"Exif\0\0II*\0",
    "offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "entry cut": b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01",
    "text for a number": _exif_with(2, 4, b"abc\0"),
    "unknown type": _exif_with(99, 1, b"\x06\0\0\0"),
    "a rational of nothing": _exif_with(5, 1, b"\xff\xff\xff\x0f"),
}


@pytest.mark.parametrize("exif", MALFORMED.values(), ids=MALFORMED.keys())
@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_malformed_exif_does_not_cost_the_picture(format_: str, exif: bytes) -> None:
    """A sound picture with unreadable metadata is taken as upright."""
    upright = pattern(4, 6)
    data = encode(upright, format_, exif=exif, **LOSSLESS[format_])
    assert np.array_equal(to_array(data, Preprocessing(height=4, width=6)), upright)


@pytest.mark.parametrize("exif", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_exif_does_not_cost_a_jpeg(exif: bytes) -> None:
    """The same for JPEG, whose metadata is read before its pixels."""
    picture = smooth(24, 40)
    spec = Preprocessing(height=24, width=40)
    plain = encode(picture, "JPEG")
    assert np.array_equal(to_array(encode(picture, "JPEG", exif=exif), spec), to_array(plain, spec))
