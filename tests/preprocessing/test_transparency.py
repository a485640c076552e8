"""What can be seen through is laid over white."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from app.preprocessing import Preprocessing, to_array
from tests.preprocessing.images import RED, WHITE, encode, pattern, pixel, pixels, png, png_chunk, tiff

CLEAR_RED = (*RED, 0)


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_fully_transparent_is_white(format_: str) -> None:
    """Whatever colour hides below full transparency, white is seen."""
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    assert pixel(encode(Image.new("RGBA", (1, 1), CLEAR_RED), format_, **options)) == list(WHITE)


@pytest.mark.parametrize("format_", ["PNG", "WEBP", "TIFF"])
def test_half_transparent_red_is_pink(format_: str) -> None:
    """Alpha 128 of 255 lets 127 / 255 of the white through."""
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encode(Image.new("RGBA", (1, 1), (*RED, 128)), format_, **options)
    assert pixel(data) == [255, 127, 127]
    assert pixel(data, grayscale=True) == [165]


def test_every_alpha_is_blended_within_one_level() -> None:
    """All alphas over many colours agree with the formula, to one level."""
    picture = pattern(16, 256)
    alpha = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    data = encode(np.dstack([picture, alpha]), "PNG")
    array = to_array(data, Preprocessing(height=16, width=256))
    part = alpha[..., None] / 255
    assert np.abs(array - (picture * part + 255 * (1 - part))).max() <= 1


def test_opaque_alpha_changes_nothing() -> None:
    """An alpha channel that is full everywhere is as none."""
    picture = pattern(8, 12)
    data = encode(np.dstack([picture, np.full((8, 12), 255, np.uint8)]), "PNG")
    assert np.array_equal(to_array(data, Preprocessing(height=8, width=12)), picture)


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
def test_grey_with_alpha(format_: str) -> None:
    """Grey with alpha is blended as colour is."""
    image = Image.new("LA", (2, 1), (0, 128))
    image.putpixel((1, 0), (0, 0))
    assert pixels(encode(image, format_), 1, 2, grayscale=True) == [[[127], [255]]]


def test_16_bit_grey_with_alpha() -> None:
    """The same with 16 bits."""
    data = png((2, 1), 16, 4, b"\0" + struct.pack(">4H", 25700, 65535, 0, 0))
    assert pixels(data, 1, 2, grayscale=True) == [[[100], [255]]]


def test_16_bit_color_with_alpha() -> None:
    """And in colour."""
    data = png((1, 1), 16, 6, b"\0" + struct.pack(">4H", 65535, 0, 0, 32896))
    assert pixel(data) == [255, 127, 127]


@pytest.mark.parametrize(
    ("bits", "photometric", "sample", "seen"),
    [
        ((8, 8, 8, 8), 2, (100, 50, 0, 128), [227, 177, 127]),
        ((8, 8), 1, (64, 128), [191, 191, 191]),
    ],
    ids=["color", "grey"],
)
def test_premultiplied_alpha_is_not_applied_twice(
    bits: tuple[int, ...], photometric: int, sample: tuple[int, ...], seen: list[int]
) -> None:
    """Where colour was multiplied by alpha already, only the white is added."""
    data = tiff((1, 1), bytes(sample), bits=bits, photometric=photometric, extra_samples=(1,))
    assert np.abs(np.subtract(pixel(data), seen)).max() <= 1


def test_extra_channels_that_are_no_alpha_are_passed_over() -> None:
    """A fourth channel of unspecified meaning makes nothing transparent."""
    data = tiff((1, 1), bytes([10, 20, 30, 0]), bits=(8, 8, 8, 8), photometric=2, extra_samples=(0,))
    assert pixel(data) == [10, 20, 30]


# Palettes


def _paletted() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 128, 0, 1, 2, 3])
    image.putdata([0, 1, 2])
    return image


@pytest.mark.parametrize("format_", ["PNG", "GIF"])
def test_the_transparent_color_of_a_palette_is_white(format_: str) -> None:
    """One palette entry may be transparent."""
    data = encode(_paletted(), format_, transparency=1)
    assert pixels(data, 1, 3) == [[[255, 0, 0], [255, 255, 255], [1, 2, 3]]]


def test_palette_entries_may_each_have_their_alpha() -> None:
    """A PNG may give an alpha to each palette entry."""
    data = encode(_paletted(), "PNG", transparency=bytes([128, 0, 255]))
    assert pixels(data, 1, 3) == [[[255, 127, 127], [255, 255, 255], [1, 2, 3]]]


def test_palette_with_an_alpha_channel_beside_it() -> None:
    """A TIFF may have indices and alpha side by side."""
    color_map = [0] * 768
    color_map[1] = 65535  # entry 1 is red
    data = tiff((2, 1), bytes([1, 255, 1, 0]), bits=(8, 8), photometric=3, extra_samples=(2,), color_map=color_map)
    assert pixels(data, 1, 2) == [[list(RED), list(WHITE)]]


# Colour keys: one colour of a PNG without alpha is declared transparent, in the file's own bit depth.


@pytest.mark.parametrize(
    ("depth", "row", "key"),
    [
        (1, bytes([0b01000000]), 0),
        (2, bytes([0b01100000]), 1),
        (4, bytes([0x59]), 5),
        (8, bytes([85, 153]), 85),
        (16, struct.pack(">2H", 1000, 1001), 1000),
    ],
)
def test_a_grey_color_key_of_any_depth_is_white(depth: int, row: bytes, key: int) -> None:
    """The declared grey, and no other, is transparent at every bit depth."""
    key_chunk = png_chunk(b"tRNS", struct.pack(">H", key))
    plain = pixels(png((2, 1), depth, 0, b"\0" + row), 1, 2, grayscale=True)[0]
    keyed = pixels(png((2, 1), depth, 0, b"\0" + row, before=key_chunk), 1, 2, grayscale=True)[0]
    assert plain[0] != [255]
    assert keyed == [[255], plain[1]]


@pytest.mark.parametrize("depth", [8, 16])
def test_an_rgb_color_key_is_white(depth: int) -> None:
    """The declared colour, and no other, is transparent."""
    unit = 257 if depth == 16 else 1
    values = np.multiply([18, 52, 86, 86, 52, 18], unit)
    row = struct.pack(">6H", *values) if depth == 16 else bytes(values.tolist())
    key = png_chunk(b"tRNS", struct.pack(">3H", *values[:3]))
    assert pixels(png((2, 1), depth, 2, b"\0" + row, before=key), 1, 2) == [[[255, 255, 255], [86, 52, 18]]]


def test_a_16_bit_color_key_matches_by_its_high_bytes() -> None:
    """The key is brought to 8 bits as the pixels are, by dropping the low byte."""
    row = struct.pack(">3H", 0x1234, 0x5678, 0x9ABC)
    key = png_chunk(b"tRNS", row)
    assert pixel(png((1, 1), 16, 2, b"\0" + row, before=key)) == list(WHITE)
