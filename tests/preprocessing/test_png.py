"""The short way of plain PNGs gives what the general one gives: the same array, or the same error in the same words.

Every file here goes both ways. It does not matter which of them are sound: what Pillow makes of a file is the answer.
"""

from __future__ import annotations

import zlib
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageFile

from app.preprocessing import to_array
from tests.preprocessing.images import encode, pattern
from tests.preprocessing.pngs import END, HARMLESS, OTHERS, PIXELS, SIGNATURE, SPECS, file_of, goes_the_short_way, noise

# Plain


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (9, 12), (28, 28), (3, 200), (64, 48)])
def test_what_pillow_saves_of_grey_and_rgb_goes_the_short_way(mode: str, size: tuple[int, int]) -> None:
    """So do most small pictures that a client sends."""
    assert goes_the_short_way(encode(Image.fromarray(pattern(*size)).convert(mode), "PNG"))


@pytest.mark.parametrize("chunk", HARMLESS, ids=lambda chunk: chunk[4:8].decode())
def test_chunks_that_change_no_pixel_are_passed_over(chunk: bytes) -> None:
    """Gamma, resolution, time and their like are there or not: the picture is the same."""
    assert goes_the_short_way(file_of(PIXELS, before=chunk))
    assert np.array_equal(to_array(file_of(PIXELS, before=chunk), SPECS[0]), to_array(file_of(PIXELS), SPECS[0]))


@pytest.mark.parametrize("filtering", range(5))
def test_every_filter_is_undone(filtering: int) -> None:
    """The five filters of PNG, each for a whole picture."""
    random = Random(filtering)
    for kind, length in ((0, 12), (2, 36)):
        rows = b"".join(bytes([filtering]) + random.randbytes(length) for _ in range(9))
        assert goes_the_short_way(file_of(zlib.compress(rows), kind=(8, kind, 0, 0, 0)))


# Not plain


@pytest.mark.parametrize("name", OTHERS)
def test_other_chunks_are_left_to_the_general_way(name: str) -> None:
    """Before or behind the pixels, among harmless ones or not, in grey or RGB: whatever Pillow makes of them stands."""
    for before, after in ((OTHERS[name], b""), (HARMLESS[0] + OTHERS[name] + HARMLESS[1], b""), (b"", OTHERS[name])):
        assert not goes_the_short_way(file_of(PIXELS, before=before, after=after))
        grey = zlib.compress(noise(Random(1), (12, 9), 8))
        assert not goes_the_short_way(file_of(grey, kind=(8, 0, 0, 0, 0), before=before, after=after))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_other_modes_are_left_to_the_general_way(mode: str) -> None:
    """Alpha, palettes, 1 bit and 16 have their own rules."""
    picture = Image.fromarray(pattern(9, 12))
    other = picture.convert("L").convert(mode) if mode in ("1", "LA", "I;16") else picture.convert(mode)
    assert not goes_the_short_way(encode(other, "PNG"))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [1, 4, 16, 255])
def test_other_headers_are_left_to_the_general_way(place: int, value: int) -> None:
    """Depth, colour type, compression, filter and interlacing: anything but the usual, and what Pillow says to it."""
    kind = [8, 2, 0, 0, 0]
    kind[place] = value
    assert not goes_the_short_way(file_of(PIXELS, kind=(kind[0], kind[1], kind[2], kind[3], kind[4])))


def test_data_in_several_chunks_is_left_to_the_general_way() -> None:
    """A decoder that gets its bytes in pieces could come to another end."""
    for cuts in ((0,), (1,), (len(PIXELS) // 2,), (len(PIXELS),), (len(PIXELS) - 4, len(PIXELS) - 2)):
        assert not goes_the_short_way(file_of(PIXELS, cuts=cuts))


def test_data_of_more_than_a_block_is_left_to_the_general_way() -> None:
    """Pillow gives its decoder a block at a time; up to just that size the short way is taken."""
    rows = noise(Random(2), (400, 54), 24)
    spec = SPECS[0]
    for excess in (0, 1):
        data = zlib.compress(rows, 0)
        data += bytes(ImageFile.MAXBLOCK + excess - len(data))
        assert goes_the_short_way(file_of(data, size=(400, 54)), spec=spec) == (excess == 0)


def test_what_surrounds_the_file_is_left_to_the_general_way() -> None:
    """Bytes behind the end or before the start, and a second file behind the first."""
    plain = file_of(PIXELS)
    for data in (
        plain + b"\0",
        plain + END,
        plain + plain,
        b"\0" + plain,
        plain[8:],
        SIGNATURE + plain,
        SIGNATURE + END,
    ):
        assert not goes_the_short_way(data)


def test_an_animation_is_left_to_the_general_way() -> None:
    """Its first frame counts, wherever that stands."""
    frames = [Image.fromarray(np.roll(pattern(9, 12), n, axis=0)) for n in range(3)]
    for default in (False, True):
        data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=default)
        assert not goes_the_short_way(data)


# Sizes


@pytest.mark.parametrize(
    "size", [(0, 9), (12, 0), (0, 0), (2**31, 1), (2**32 - 1, 2**32 - 1), (60_000, 60_000), (10_000, 10_000)]
)
def test_sizes_that_cannot_be_are_left_to_the_general_way(size: tuple[int, int]) -> None:
    """Nothing and too much: refused in the same words."""
    assert not goes_the_short_way(file_of(PIXELS, size=size))


def test_the_cap_on_pixels_is_the_same() -> None:
    """At the cap, and one pixel over it."""
    assert goes_the_short_way(file_of(PIXELS), max_pixels=12 * 9)
    assert not goes_the_short_way(file_of(PIXELS), max_pixels=12 * 9 - 1)


def test_large_pictures_are_left_to_the_general_way() -> None:
    """So a small file with a huge claim costs what it did before."""
    rows = bytes(1001) * 1001
    data = zlib.compress(rows, 9)
    assert goes_the_short_way(file_of(data, size=(1000, 1000), kind=(8, 0, 0, 0, 0)), spec=SPECS[0])
    assert not goes_the_short_way(file_of(data, size=(1000, 1001), kind=(8, 0, 0, 0, 0)), spec=SPECS[0])
