"""Every mode of every format becomes 8-bit RGB or luma, and the right one."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidImage, UnsupportedImageFormat
from app.preprocessing import Preprocessing, to_array
from tests.preprocessing.images import LOSSLESS, RED, encode, pattern, pixel, pixels, png, tiff


@pytest.mark.parametrize("format_", LOSSLESS)
def test_rgb_passes_unchanged(format_: str) -> None:
    """A lossless RGB picture of the model's size is the model's input."""
    picture = pattern(8, 12)
    array = to_array(encode(picture, format_, **LOSSLESS[format_]), Preprocessing(height=8, width=12))
    assert np.array_equal(array, picture)


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF"])
def test_grey_passes_unchanged_and_is_repeated_for_rgb(format_: str) -> None:
    """Grey stays grey for a greyscale model, and has three equal channels for an RGB one."""
    grey = pattern(8, 12)[..., 0]
    data = encode(grey, format_)
    assert np.array_equal(to_array(data, Preprocessing(height=8, width=12, color="grayscale"))[..., 0], grey)
    assert np.array_equal(to_array(data, Preprocessing(height=8, width=12)), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("color", "luma"), [(RED, 76), ((0, 255, 0), 150), ((0, 0, 255), 29), ((255, 255, 255), 255), ((10, 200, 90), 131)]
)
def test_color_becomes_luma(color: tuple[int, int, int], luma: int) -> None:
    """A greyscale model sees luma as ITU-R 601 weighs it: 0.299 R + 0.587 G + 0.114 B."""
    assert pixel(encode(Image.new("RGB", (1, 1), color), "PNG"), grayscale=True) == [luma]


# Palettes and few bits


def _paletted() -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 128, 0, 1, 2, 3])
    image.putdata([2, 0, 1])
    return image


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "TIFF"])
def test_palettes_are_looked_up(format_: str) -> None:
    """A palette picture shows its colours, not its indices."""
    assert pixels(encode(_paletted(), format_), 1, 3) == [[[1, 2, 3], [255, 0, 0], [0, 128, 0]]]


def test_palettes_become_luma() -> None:
    """For a greyscale model the palette's colours are weighed as any others."""
    assert pixels(encode(_paletted(), "PNG"), 1, 3, grayscale=True) == [[[2], [76], [75]]]


@pytest.mark.parametrize("format_", ["PNG", "GIF", "BMP", "TIFF"])
def test_one_bit_is_black_and_white(format_: str) -> None:
    """The two values of a 1-bit picture are 0 and 255."""
    image = Image.new("1", (3, 1))
    image.putdata([1, 0, 1])
    assert pixels(encode(image, format_), 1, 3, grayscale=True) == [[[255], [0], [255]]]


def test_one_bit_faxes_are_black_and_white() -> None:
    """Fax-compressed TIFFs store black as 1; black they are."""
    image = Image.new("1", (8, 1), 1)
    image.putpixel((2, 0), 0)
    row = [[255]] * 2 + [[0]] + [[255]] * 5
    assert pixels(encode(image, "TIFF", compression="group4"), 1, 8, grayscale=True) == [row]


# More than 8 bits


def test_16_bit_grey_png_is_scaled() -> None:
    """16-bit grey spans black to white; it is not clipped at 255."""
    values = np.array([[0, 256, 257, 32768, 65535]], np.uint16)
    assert pixels(encode(values, "PNG"), 1, 5, grayscale=True) == [[[0], [1], [1], [128], [255]]]


def test_every_16_bit_value_is_rounded_to_the_nearest_8_bit_one() -> None:
    """All 65,536 values come out as value / 257, rounded."""
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    array = to_array(encode(values, "PNG"), Preprocessing(height=256, width=256, color="grayscale"))
    assert np.array_equal(array[..., 0], np.rint(values / 257))


def test_16_bit_grey_reaches_rgb() -> None:
    """16-bit grey has three equal channels for an RGB model."""
    assert pixel(encode(np.array([[25700]], np.uint16), "PNG")) == [100, 100, 100]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_grey_tiff_is_scaled_in_both_byte_orders(order: str) -> None:
    """Little- and big-endian TIFFs hold the same picture."""
    values = [0, 25700, 65535]
    image = Image.frombytes("I;16" if order == "<" else "I;16B", (3, 1), struct.pack(f"{order}3H", *values))
    assert pixels(encode(image, "TIFF"), 1, 3, grayscale=True) == [[[0], [100], [255]]]


def test_32_bit_grey_tiff_is_read_as_16_bit_values() -> None:
    """32-bit integers hold 16-bit values, as most programs write them; beyond them it is black or white."""
    image = Image.frombytes("I", (4, 1), struct.pack("<4i", -5, 25700, 65535, 1_000_000))
    assert pixels(encode(image, "TIFF"), 1, 4, grayscale=True) == [[[0], [100], [255], [255]]]


def test_12_bit_grey_tiff_is_scaled_from_12_bits() -> None:
    """The brightest of 12 bits is white."""
    packed = bytes([0xFF, 0xF0, 0x00, 0x80, 0x00, 0x00])  # 4095, 0, 2048, 0
    assert pixels(tiff((4, 1), packed, bits=(12,)), 1, 4, grayscale=True) == [[[255], [0], [128], [0]]]


@pytest.mark.parametrize(
    ("bits", "sample_format", "data"),
    [((8,), 1, bytes([0, 255])), ((16,), 1, struct.pack("<2H", 0, 65535)), ((32,), 3, struct.pack("<2f", 0, 1))],
    ids=["8 bits", "16 bits", "float"],
)
def test_tiffs_whose_white_is_zero_are_not_negatives(bits: tuple[int], sample_format: int, data: bytes) -> None:
    """Where the file says that zero is white, zero is white."""
    image = tiff((2, 1), data, bits=bits, photometric=0, sample_format=sample_format)
    assert pixels(image, 1, 2, grayscale=True) == [[[255], [0]]]


def test_16_bit_rgb_png_is_scaled() -> None:
    """16 bits a channel become 8, as near as the decoder does it (it drops the low byte)."""
    data = png((1, 1), 16, 2, b"\0" + struct.pack(">3H", 65535, 25700, 0))
    assert pixel(data) == [255, 100, 0]


def test_16_bit_rgb_tiff_is_scaled() -> None:
    """The same for TIFF."""
    data = tiff((1, 1), struct.pack("<3H", 65535, 25700, 0), bits=(16, 16, 16), photometric=2)
    assert pixel(data) == [255, 100, 0]


def test_floating_point_tiff_spans_0_to_1() -> None:
    """Floating-point pixels are 0 to 1; what lies outside is black or white."""
    image = Image.fromarray(np.array([[-1.0, 0.0, 0.5, 1.0, 7.0]], np.float32))
    assert pixels(encode(image, "TIFF"), 1, 5, grayscale=True) == [[[0], [0], [128], [255], [255]]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_floating_point_tiff_that_is_not_finite_is_refused(value: float) -> None:
    """NaN and infinity are no brightness."""
    data = encode(Image.fromarray(np.array([[0.5, value]], np.float32)), "TIFF")
    with pytest.raises(InvalidImage, match="not finite"):
        to_array(data, Preprocessing(height=1, width=2))


# CMYK and other ways of saying colour


@pytest.mark.parametrize(
    ("ink", "color"),
    [
        ((0, 0, 0, 0), (255, 255, 255)),
        ((0, 0, 0, 255), (0, 0, 0)),
        ((0, 255, 255, 0), (255, 0, 0)),
        ((255, 0, 0, 0), (0, 255, 255)),
        ((51, 102, 0, 51), (163, 122, 204)),
    ],
)
@pytest.mark.parametrize("format_", ["TIFF", "JPEG"])
def test_cmyk_is_ink_on_white(format_: str, ink: tuple[int, ...], color: tuple[int, ...]) -> None:
    """No ink is white and full ink is dark, also in JPEGs, which store CMYK inverted as Adobe does."""
    options = {"quality": 100} if format_ == "JPEG" else {}
    array = pixel(encode(Image.new("CMYK", (1, 1), ink), format_, **options))
    assert np.abs(np.subtract(array, color)).max() <= (2 if format_ == "JPEG" else 0)


def test_cmyk_becomes_luma_by_way_of_its_color() -> None:
    """Red ink is as dark as red light."""
    assert pixel(encode(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), grayscale=True) == [76]


def test_adobe_jpegs_in_ycck_are_ink_on_white() -> None:
    """The third way of a JPEG with four channels: its colour as luma and chroma, black beside it."""
    # Pillow writes plain CMYK (inverted); with the marker's last byte at 2 the same four
    # channels mean Y, Cb, Cr and K. Neutral chroma: C = M = Y = the first, as stored.
    data = bytearray(encode(Image.new("CMYK", (8, 8), (255 - 60, 127, 127, 51)), "JPEG", quality=100))
    data[data.index(b"Adobe") + 11] = 2
    ink = 60
    expected = round((255 - ink) * (255 - 51) / 255)
    assert np.abs(np.subtract(pixel(bytes(data)), expected)).max() <= 2


def test_jpegs_that_store_rgb_are_rgb() -> None:
    """A JPEG marked as RGB is not taken for YCbCr."""
    data = encode(Image.new("RGB", (8, 8), (200, 30, 90)), "JPEG", quality=100, keep_rgb=True)
    assert np.abs(np.subtract(pixel(data), (200, 30, 90))).max() <= 2


def test_ycbcr_tiff_is_rgb() -> None:
    """Luma and chroma become colour."""
    data = tiff((1, 1), bytes([76, 85, 255]), bits=(8, 8, 8), photometric=6)
    assert np.abs(np.subtract(pixel(data), RED)).max() <= 1


def test_lab_tiff_is_refused_with_the_way_out() -> None:
    """L*a*b* needs colour management; the message says what to do instead."""
    data = tiff((1, 1), bytes([50, 0, 0]), bits=(8, 8, 8), photometric=8)
    with pytest.raises(UnsupportedImageFormat, match="Save it as RGB"):
        to_array(data, Preprocessing(height=1, width=1))


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"])
def test_tiff_compressions_hold_the_same_picture(compression: str | None) -> None:
    """Lossless TIFFs are exact whatever packs them."""
    picture = pattern(16, 24)
    array = to_array(encode(picture, "TIFF", compression=compression), Preprocessing(height=16, width=24))
    assert np.array_equal(array, picture)


def test_planar_tiff_is_rgb() -> None:
    """A TIFF that keeps its channels apart shows the same picture."""
    picture = pattern(4, 6)
    data = tiff((6, 4), picture.transpose(2, 0, 1).tobytes(), bits=(8, 8, 8), photometric=2, planes=3)
    assert np.array_equal(to_array(data, Preprocessing(height=4, width=6)), picture)
