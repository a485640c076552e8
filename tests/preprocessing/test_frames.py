"""Of moving pictures and stacks of pages, the first counts."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import GifImagePlugin, Image, JpegImagePlugin

from app.preprocessing import Preprocessing, to_array
from tests.preprocessing.images import LOSSLESS, WHITE, encode, pattern, pixel, smooth

SPEC = Preprocessing(height=8, width=12)


def _frames(count: int) -> list[Image.Image]:
    picture = pattern(8, 12)
    return [Image.fromarray(np.roll(picture, shift, axis=0)) for shift in range(count)]


@pytest.mark.parametrize("format_", ["WEBP", "PNG", "TIFF"])
def test_the_first_of_several_frames_counts(format_: str) -> None:
    """Animated WebP, animated PNG and multi-page TIFF give their first frame, exactly."""
    first, *others = _frames(4)
    data = encode(first, format_, save_all=True, append_images=others, **LOSSLESS[format_])
    with Image.open(io.BytesIO(data)) as image:
        assert getattr(image, "n_frames", 1) == 4
    assert np.array_equal(to_array(data, SPEC), np.asarray(first))


def test_the_first_frame_of_a_gif_counts() -> None:
    """So does an animated GIF, in the colours of its own palette."""
    colors = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    first, *others = [Image.new("RGB", (4, 4), color) for color in colors]
    assert pixel(encode(first, "GIF", save_all=True, append_images=others)) == [255, 0, 0]


def test_the_part_of_a_gif_that_the_first_frame_leaves_empty_is_white() -> None:
    """A first frame smaller than the canvas leaves the rest transparent, hence white."""
    frame = Image.new("P", (2, 1))
    frame.putpalette([0, 0, 0, 255, 0, 0])
    frame.putdata([1, 0])
    data = bytearray(encode(frame, "GIF", transparency=0))
    data[6:10] = b"\x04\0\x01\0"  # the canvas: 4 x 1
    array = to_array(bytes(data), Preprocessing(height=1, width=4))
    assert array.tolist() == [[[255, 0, 0], list(WHITE), list(WHITE), list(WHITE)]]


def test_thousands_of_frames_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GIF of 3,000 frames costs as much as its first one."""
    frames = [Image.new("L", (8, 8), shade % 256) for shade in range(3000)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    sought: list[int] = []
    seek = GifImagePlugin.GifImageFile._seek

    def spy(image: GifImagePlugin.GifImageFile, frame: int, update_image: bool = True) -> None:
        sought.append(frame)
        seek(image, frame, update_image)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", spy)
    assert pixel(data) == [0, 0, 0]
    assert sought == [0]


def test_a_default_image_that_is_no_part_of_the_animation_counts() -> None:
    """An animated PNG may have a picture for those that cannot animate; that is its canonical image."""
    default, *others = _frames(3)
    data = encode(default, "PNG", save_all=True, append_images=others, default_image=True)
    assert np.array_equal(to_array(data, SPEC), np.asarray(default))


def test_the_first_picture_of_a_phones_jpeg_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG with further pictures behind the first (MPO) is a JPEG, decoded at a reduced scale too."""
    decoded: set[tuple[int, int]] = set()
    load = JpegImagePlugin.JpegImageFile.load

    def spy(image: JpegImagePlugin.JpegImageFile) -> object:
        decoded.add(image.size)
        return load(image)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", spy)
    first = smooth(480, 640)
    second = Image.new("RGB", (640, 480))
    spec = Preprocessing(height=30, width=40)
    several = to_array(encode(first, "MPO", save_all=True, append_images=[second]), spec)
    alone = to_array(encode(first, "JPEG"), spec)
    assert np.abs(several.astype(int) - alone).max() <= 1
    assert decoded == {(80, 60)}
