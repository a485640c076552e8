"""The size of a WebP, read from its head."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from app import webp
from app.errors import ImageTooLarge, InvalidImage
from app.preprocessing import Preprocessing, to_array

SPEC = Preprocessing(height=8, width=8)
KINDS: dict[str, dict[str, Any]] = {
    "lossy": {},
    "lossless": {"lossless": True},
    "extended": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0"},
    "animated": {"save_all": True},
}


def _encoded(width: int, height: int, kind: str = "lossy") -> bytes:
    file = io.BytesIO()
    others = [Image.new("RGB", (width, height), "red")] if kind == "animated" else []
    Image.new("RGB", (width, height)).save(file, "WEBP", append_images=others, **KINDS[kind])
    return file.getvalue()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 16383), (16383, 2), (300, 255), (256, 257)])
def test_the_size_is_the_one_that_the_decoder_finds(kind: str, width: int, height: int) -> None:
    """Of all three kinds of files, in both directions, to the largest side that there is."""
    data = _encoded(width, height, kind)
    with Image.open(io.BytesIO(data)) as image:
        assert webp.size(data) == image.size == (width, height)


@pytest.mark.parametrize("length", range(31))
def test_a_file_that_ends_in_its_head_has_no_size(length: int) -> None:
    """It is left to the decoder, which refuses it; nothing else goes wrong."""
    data = _encoded(40, 30)[:length]
    assert webp.size(data) == ((40, 30) if length == 30 else None)
    with pytest.raises(InvalidImage):
        to_array(data, SPEC)


@pytest.mark.parametrize("data", [b"", b"RIFF", b"RIFF" + bytes(100), b"\x89PNG" + bytes(100)])
def test_what_is_no_webp_has_no_size(data: bytes) -> None:
    """Other files in the same container (sound, say) neither."""
    assert webp.size(data) is None


@pytest.mark.parametrize("kind", KINDS)
def test_too_large_a_webp_is_refused_unopened(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Since opening it takes eight bytes a pixel, which the header alone decides on."""
    data = _encoded(40, 30, kind)
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("the file was opened"))
    with pytest.raises(ImageTooLarge, match=r"40 x 30 = 1,200 pixels; at most 1,199 are allowed"):
        to_array(data, SPEC, max_pixels=1199)
