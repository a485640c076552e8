"""Damaged files are bad images: never another error, and never half a picture."""

from __future__ import annotations

import functools
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from app.errors import InvalidImage
from app.preprocessing import Preprocessing, ignore_decoder_warnings, to_array
from tests.preprocessing.images import encode, oriented, pattern, png, smooth

SPEC = Preprocessing(height=8, width=10)


@functools.cache
def _samples() -> dict[str, bytes]:
    """A file of each kind; small, so that a cut or a flipped bit hits every part."""
    picture = Image.fromarray(pattern(20, 24))
    grey, bits = picture.convert("L"), picture.convert("1")
    others = [Image.fromarray(np.roll(pattern(20, 24), 3, axis=0))]
    alpha = Image.merge("RGBA", (*picture.split(), grey))
    return {
        "jpeg": encode(picture, "JPEG"),
        "jpeg progressive": encode(picture, "JPEG", progressive=True),
        "jpeg cmyk": encode(picture.convert("CMYK"), "JPEG"),
        "jpeg exif": encode(picture, "JPEG", exif=oriented(6)),
        "jpeg reduced": encode(smooth(80, 100), "JPEG", quality=60),
        "mpo": encode(picture, "MPO", save_all=True, append_images=others),
        "png": encode(picture, "PNG"),
        "png palette": encode(alpha.quantize(16), "PNG"),
        "png 16 bits": encode(np.asarray(grey).astype(np.uint16) * 257, "PNG"),
        "apng": encode(picture, "PNG", save_all=True, append_images=others),
        "webp": encode(picture, "WEBP"),
        "webp lossless": encode(alpha, "WEBP", lossless=True, exif=oriented(3)),
        "webp animated": encode(picture, "WEBP", save_all=True, append_images=others),
        "gif": encode(picture, "GIF"),
        "bmp": encode(picture, "BMP"),
        "bmp 1 bit": encode(bits, "BMP"),
        "tiff": encode(picture, "TIFF"),
        "tiff lzw": encode(picture, "TIFF", compression="tiff_lzw"),
        "tiff deflate": encode(picture, "TIFF", compression="tiff_adobe_deflate"),
        "tiff packbits": encode(picture, "TIFF", compression="packbits"),
        "tiff fax": encode(bits, "TIFF", compression="group4"),
        "tiff float": encode(Image.fromarray(np.asarray(grey) / np.float32(255)), "TIFF"),
    }


NAMES = list(_samples())


@pytest.mark.parametrize("name", NAMES)
def test_the_samples_are_sound(name: str) -> None:
    """What is cut and flipped below is a picture to begin with."""
    assert to_array(_samples()[name], SPEC).std() > 10


# The last bytes of these hold no pixels: a GIF's end its data and the file, a BMP's pad its last row, and a TIFF's
# say that no further page follows.
WITHOUT_PIXELS = {"gif": 2, "bmp 1 bit": 1, "tiff fax": 4}
# Here whole pictures follow the first one.
FIRST_OF_SEVERAL = {"mpo"}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in FIRST_OF_SEVERAL])
def test_a_file_cut_anywhere_is_refused(name: str) -> None:
    """Whatever byte a file ends at too early, it is a bad image."""
    data = _samples()[name]
    step = max(1, len(data) // 400)
    ends = {*range(0, len(data) - WITHOUT_PIXELS.get(name, 0), step), *range(len(data) - 40, len(data))}
    for end in sorted(ends):
        if end >= len(data) - WITHOUT_PIXELS.get(name, 0):
            continue
        with pytest.raises(InvalidImage):
            to_array(data[:end], SPEC)


@pytest.mark.parametrize("name", [*WITHOUT_PIXELS, *FIRST_OF_SEVERAL])
def test_a_cut_that_takes_no_pixel_changes_none(name: str) -> None:
    """Where a cut file is accepted, its picture is the whole one."""
    data = _samples()[name]
    whole = to_array(data, SPEC)
    accepted = 0
    for end in range(0, len(data), max(1, len(data) // 400)):
        try:
            array = to_array(data[:end], SPEC)
        except InvalidImage:
            continue
        accepted += 1
        assert np.array_equal(array, whole)
    assert np.array_equal(to_array(data[:-1], SPEC), whole)
    assert accepted < len(data) / 2 or name in FIRST_OF_SEVERAL


def test_pillow_is_not_told_to_load_truncated_images() -> None:
    """That switch is process-wide, and would fill what is missing with grey."""
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_png_without_its_end_is_refused() -> None:
    """All pixels are there, but the file was cut: it is refused like any other cut file."""
    data = png((1, 1), 8, 0, b"\0\x42")
    assert data.endswith(b"IEND\xaeB`\x82")
    with pytest.raises(InvalidImage, match="no end"):
        to_array(data[:-12], SPEC)


def test_a_png_whose_data_does_not_match_its_checksum_is_refused() -> None:
    """A flipped bit inside of the compressed pixels is noticed."""
    data = bytearray(encode(pattern(20, 24), "PNG"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(InvalidImage):
        to_array(bytes(data), SPEC)


def test_the_message_is_one_short_line() -> None:
    """It can stand in a log or a problem document as it is."""
    for name in NAMES:
        data = _samples()[name]
        with pytest.raises(InvalidImage) as caught:
            to_array(data[: len(data) // 3], SPEC)
        message = str(caught.value)
        assert message.endswith(".")
        assert len(message) < 300
        assert message.isprintable()


@pytest.mark.parametrize(
    "error",
    [struct.error("unpack"), zlib.error("-3"), AssertionError(), KeyError("P"), RecursionError(), MemoryError()],
)
def test_whatever_a_decoder_raises_is_a_bad_image(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders were not written for hostile bytes; their surprises stay inside."""

    def load(_image: object) -> None:
        raise error

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load)
    with pytest.raises(InvalidImage, match="damaged or cut short: "):
        to_array(_samples()["png palette"], SPEC)


MUTATION = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))


@settings(max_examples=600, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    name=st.sampled_from(NAMES),
    changes=st.lists(MUTATION, min_size=1, max_size=8),
    header_only=st.booleans(),
    gray=st.booleans(),
)
def test_changed_bytes_give_a_picture_or_a_bad_image(
    name: str, changes: list[tuple[float, int]], header_only: bool, gray: bool
) -> None:
    """Whatever bytes are changed: an array of the right shape, or InvalidImage; never anything else."""
    ignore_decoder_warnings()
    data = bytearray(_samples()[name])
    reach = min(len(data), 120) if header_only else len(data)
    for place, value in changes:
        data[int(place * reach)] = value
    spec = Preprocessing(height=8, width=10, color="grayscale" if gray else "rgb")
    try:
        array = to_array(bytes(data), spec)
    except InvalidImage:
        return
    assert array.shape == spec.shape
    assert array.dtype == np.uint8


@settings(max_examples=300, derandomize=True, deadline=None)
@given(
    head=st.sampled_from(
        [
            b"",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"MM\0*",
            b"RIFF\x40\0\0\0WEBPVP8 ",
        ]
    ),
    rest=st.binary(max_size=300),
)
def test_noise_is_a_bad_image(head: bytes, rest: bytes) -> None:
    """Random bytes, behind the first bytes of any format, are refused as what they are."""
    ignore_decoder_warnings()
    with pytest.raises(InvalidImage):
        to_array(head + rest, SPEC)
