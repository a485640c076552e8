"""How pictures reach the model's size: resize filters, and what happens to another aspect ratio."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from app.preprocessing import Preprocessing, UInt8Array, to_array
from tests.preprocessing.images import encode, pattern, smooth

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos", "box"]
FILTERS: tuple[Filter, ...] = ("nearest", "bilinear", "bicubic", "lanczos", "box")
Fit = Literal["stretch", "crop", "pad"]


def _array(picture: UInt8Array, height: int, width: int, fit: Fit = "stretch", resample: Filter = "box") -> UInt8Array:
    spec = Preprocessing(height=height, width=width, fit=fit, resample=resample)
    return to_array(encode(picture, "PNG"), spec)


# Filters


def test_box_is_the_mean_of_what_it_covers() -> None:
    """Shrinking by a whole factor with `box` averages the blocks."""
    picture = pattern(8, 12)
    blocks = picture.reshape(4, 2, 4, 3, 3).mean(axis=(1, 3))
    assert np.abs(_array(picture, 4, 4) - blocks).max() <= 1


def test_nearest_takes_pixels_as_they_are() -> None:
    """`nearest` mixes nothing: it picks the pixel at the centre of each block."""
    picture = pattern(9, 9)
    assert np.array_equal(_array(picture, 3, 3, resample="nearest"), picture[1::3, 1::3])


@pytest.mark.parametrize("resample", ["bilinear", "bicubic", "lanczos", "box"])
def test_shrinking_antialiases(resample: Filter) -> None:
    """A fine chequered pattern becomes even grey, not moiré, with every filter but `nearest`."""
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    picture = np.stack([checks] * 3, axis=-1).astype(np.uint8)
    inner = _array(picture, 8, 8, resample=resample)[1:-1, 1:-1].astype(int)
    assert np.abs(inner - 127.5).max() <= 2


@pytest.mark.parametrize("resample", FILTERS)
def test_each_filter_is_pillows_of_that_name(resample: Filter) -> None:
    """The names are those of the field, and give what Pillow gives for them."""
    picture = pattern(37, 53)
    expected = Image.fromarray(picture).resize((17, 11), Image.Resampling[resample.upper()])
    assert np.array_equal(_array(picture, 11, 17, resample=resample), np.asarray(expected))


def test_the_filters_differ() -> None:
    """No two filters are one and the same."""
    results = {_array(pattern(37, 53), 11, 17, resample=resample).tobytes() for resample in FILTERS}
    assert len(results) == len(FILTERS)


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_models_size_is_left_alone(resample: Filter, fit: Fit) -> None:
    """A picture that has the size already is not resampled."""
    picture = pattern(11, 17)
    assert np.array_equal(_array(picture, 11, 17, fit, resample), picture)


# Fits

LEFT, MIDDLE, RIGHT = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def _thirds(height: int, width: int) -> UInt8Array:
    """Three upright stripes: red, green, blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    for stripe, color in enumerate((LEFT, MIDDLE, RIGHT)):
        picture[:, stripe * width // 3 : (stripe + 1) * width // 3] = color
    return picture


def test_stretch_keeps_all_and_ignores_the_aspect_ratio() -> None:
    """Three thirds of a wide picture are three thirds of a square."""
    assert np.array_equal(_array(_thirds(2, 18), 6, 6), _thirds(6, 6))


def test_crop_keeps_the_centre() -> None:
    """Of a picture three times as wide as high, a square model sees the middle third only."""
    assert np.array_equal(_array(_thirds(4, 12), 4, 4, "crop"), np.full((4, 4, 3), MIDDLE))


def test_crop_of_a_tall_picture_keeps_the_centre() -> None:
    """The same upright."""
    assert np.array_equal(_array(_thirds(4, 12).transpose(1, 0, 2), 4, 4, "crop"), np.full((4, 4, 3), MIDDLE))


def test_pad_keeps_all_between_bars_of_black() -> None:
    """A wide picture stands in the middle of a square, black above and below."""
    expected = np.zeros((12, 12, 3), np.uint8)
    expected[4:8] = _thirds(4, 12)
    assert np.array_equal(_array(_thirds(4, 12), 12, 12, "pad"), expected)


def test_pad_of_a_tall_picture_has_its_bars_at_the_sides() -> None:
    """The same upright."""
    expected = np.zeros((12, 12, 3), np.uint8)
    expected[4:8] = _thirds(4, 12)
    picture = _thirds(4, 12).transpose(1, 0, 2)
    assert np.array_equal(_array(picture, 12, 12, "pad"), expected.transpose(1, 0, 2))


def test_pad_is_black_where_there_was_transparency_too() -> None:
    """Transparency is white, and the bars are black."""
    image = Image.new("RGBA", (4, 2), (0, 0, 0, 0))
    array = to_array(encode(image, "PNG"), Preprocessing(height=4, width=4, color="grayscale", fit="pad"))
    assert array[..., 0].tolist() == [[0] * 4, [255] * 4, [255] * 4, [0] * 4]


@pytest.mark.parametrize(("rows", "top"), [(3, 1), (4, 2), (6, 2)])
def test_odd_bars_are_as_even_as_they_can_be(rows: int, top: int) -> None:
    """Where the bars cannot be equal they differ by one row."""
    array = _array(np.full((1, 1, 3), 255, np.uint8), rows, 1, "pad")
    assert array[..., 0].ravel().tolist() == [0] * top + [255] + [0] * (rows - top - 1)


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("size", [(1, 2000), (2000, 1)])
def test_lines_as_thin_as_can_be_are_still_seen(size: tuple[int, int], fit: Fit) -> None:
    """A picture of one row, or one column, does not vanish, whatever the fit."""
    array = _array(np.full((*size, 3), 255, np.uint8), 16, 16, fit)
    assert array.max() == 255


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("source", [(1, 1), (5, 3), (31, 33), (7, 64)])
@pytest.mark.parametrize("target", [(1, 1), (3, 5), (28, 28), (33, 31)])
@pytest.mark.parametrize("color", ["rgb", "grayscale"])
def test_the_shape_is_what_the_model_takes(
    source: tuple[int, int], target: tuple[int, int], fit: Fit, color: Literal["rgb", "grayscale"]
) -> None:
    """Any picture comes out in the model's shape: uint8, [height, width, channels], contiguous."""
    spec = Preprocessing(height=target[0], width=target[1], fit=fit, color=color)
    array = to_array(encode(pattern(*source), "PNG"), spec)
    assert array.shape == (*target, 3 if color == "rgb" else 1) == spec.shape
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous


# Decoding at a reduced scale


@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
@pytest.mark.parametrize("factor", [1, 2, 4, 8, 16])
def test_large_jpegs_look_as_if_decoded_in_full(factor: int, fit: Fit) -> None:
    """The reduced scale saves the work, not the picture: the answer is near that of full decoding."""
    picture = smooth(48 * factor, 64 * factor)
    spec = Preprocessing(height=24, width=40, fit=fit)
    reduced = to_array(encode(picture, "JPEG", quality=95, subsampling=0), spec)
    in_full = to_array(encode(picture, "PNG"), spec)
    difference = np.abs(reduced.astype(int) - in_full)
    assert difference.max() <= 8
    assert difference.mean() <= 1.5


# What cannot be asked for


@pytest.mark.parametrize("size", [(0, 1), (1, 0), (-1, 1), (4097, 1), (1, 4097)])
def test_sizes_have_bounds(size: tuple[int, int]) -> None:
    """1 to 4096 pixels each way."""
    with pytest.raises(ValidationError):
        Preprocessing(height=size[0], width=size[1])


def test_unknown_fields_are_refused() -> None:
    """A manifest of a later time, with a field that this code does not know, is not half understood."""
    with pytest.raises(ValidationError, match="gamma"):
        Preprocessing.model_validate({"height": 1, "width": 1, "gamma": 2.2})
