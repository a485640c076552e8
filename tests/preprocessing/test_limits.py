"""What is refused before it costs anything: sizes, formats, and files made to cost."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from app.errors import ImageTooLarge, InvalidImage, UnsupportedImageFormat
from app.preprocessing import FORMATS, MAX_PIXELS, Preprocessing, to_array
from tests.preprocessing.images import encode, pattern, pixel, png, png_chunk, smooth, tiff

SPEC = Preprocessing(height=8, width=8)


def test_the_formats_are_the_six() -> None:
    """The allow-list holds these, and nothing else."""
    assert sorted(FORMATS) == ["BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP"]


# The pixel cap


def _with_size(format_: str, width: int, height: int) -> bytes:
    """A small file whose header claims another size."""
    match format_:
        case "PNG":
            return png((width, height), 8, 2, b"\0" * 100)
        case "TIFF":
            data = bytearray(tiff((1, 1), b"\0"))
            for tag, value in ((256, width), (257, height)):
                at = data.index(struct.pack("<HHI", tag, 3, 1))
                data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)
            return bytes(data)
        case "WEBP":
            # An animation: there the canvas may be larger than what is drawn on it.
            frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
            picture = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
            at = picture.index(b"VP8X") + 12
            size = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
            return picture[:at] + size + picture[at + 6 :]
    data = bytearray(encode(Image.new("L", (16, 16)), format_))
    match format_:
        case "JPEG":
            at = data.index(b"\xff\xc0") + 5
            data[at : at + 4] = struct.pack(">HH", height, width)
        case "GIF":
            data[6:10] = struct.pack("<HH", width, height)
        case "BMP":
            data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("side", [5001, 9_500, 16_000])
def test_a_header_over_the_cap_is_refused_whatever_the_file_holds(format_: str, side: int) -> None:
    """A tiny file that claims many pixels is too large, from just above the cap to far beyond it."""
    with pytest.raises(ImageTooLarge, match="at most 25,000,000"):
        to_array(_with_size(format_, side, side), SPEC)


@pytest.mark.parametrize("format_", FORMATS)
def test_the_forged_headers_are_read_as_meant(format_: str) -> None:
    """With an honest size the same files get past the cap, so it is the size that was refused."""
    try:
        to_array(_with_size(format_, 16, 16), SPEC)
    except InvalidImage as error:
        assert not isinstance(error, ImageTooLarge | UnsupportedImageFormat)  # noqa: PT017


def test_the_cap_is_exact() -> None:
    """As many pixels as allowed pass; one more does not, and the message has the numbers."""
    data = encode(pattern(10, 10), "PNG")
    assert to_array(data, SPEC, max_pixels=100).shape == (8, 8, 3)
    with pytest.raises(ImageTooLarge, match=r"10 x 10 = 100 pixels; at most 99 are allowed"):
        to_array(data, SPEC, max_pixels=99)


def test_a_gif_frame_larger_than_its_canvas_counts() -> None:
    """The frame's size is capped too, not only the canvas that the header names."""
    data = bytearray(encode(Image.new("L", (16, 16)), "GIF"))
    at = data.index(b",\0\0\0\0" + struct.pack("<HH", 16, 16))
    data[at + 5 : at + 9] = struct.pack("<HH", 6000, 6000)
    with pytest.raises(ImageTooLarge):
        to_array(bytes(data), SPEC)


def _bomb() -> bytes:
    """A sound PNG of 8000 x 8000 pixels in some 60 kB."""
    packer = zlib.compressobj(9)
    row = bytes(8001)
    body = b"".join(packer.compress(row) for _ in range(8000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 8000, 8000, 8, 0, 0, 0, 0)
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _memory_growth(data: bytes, folder: Path, expected: str) -> int:
    """MiB by which the peak of a fresh process rises when it decodes `data`; checks what comes of it."""
    file = folder / "image"
    file.write_bytes(data)
    code = f"""
import resource, sys
from app.errors import InvalidImage
from app.preprocessing import Preprocessing, to_array, ignore_decoder_warnings
ignore_decoder_warnings()
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
data = open({str(file)!r}, "rb").read()
small = open({str(folder / "small")!r}, "rb").read()
to_array(small, Preprocessing(height=32, width=32))
before = peak()
try:
    outcome = to_array(data, Preprocessing(height=32, width=32)).shape
except InvalidImage as error:
    outcome = type(error).__name__
print(peak() - before, outcome)
"""
    (folder / "small").write_bytes(encode(pattern(64, 64), "JPEG"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    growth, outcome = done.stdout.split(maxsplit=1)
    assert outcome.strip() == expected
    return int(growth)


def test_a_bomb_costs_no_memory(tmp_path: Path) -> None:
    """A file that unpacks to a thousand times its size is refused before it does."""
    assert _memory_growth(_bomb(), tmp_path, "ImageTooLarge") < 16


@pytest.mark.parametrize("format_", ["WEBP", "GIF", "TIFF"])
def test_forged_sizes_cost_no_memory(format_: str, tmp_path: Path) -> None:
    """Nor do decoders set the claimed size aside before the cap is checked."""
    assert _memory_growth(_with_size(format_, 16_000, 11_000), tmp_path, "ImageTooLarge") < 16


def test_a_large_photograph_is_decoded_in_little_memory(tmp_path: Path) -> None:
    """A JPEG of 6000 x 4000, 72 MB when decoded, is decoded at an eighth."""
    picture = np.asarray(Image.fromarray(smooth(400, 600)).resize((6000, 4000)))
    assert _memory_growth(encode(picture, "JPEG"), tmp_path, "(32, 32, 3)") < 32


# Files made to cost time


def test_progressive_jpegs_with_endless_scans_are_refused() -> None:
    """A scan of ten bytes costs a walk over the whole picture; a megabyte of them would cost minutes."""
    data = encode(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") :][:10]
    assert pixel(data[:-2] + scan * 20 + data[-2:]) == [90, 90, 90]
    with pytest.raises(InvalidImage, match="scans; at most 100"):
        to_array(data[:-2] + scan * 200 + data[-2:], SPEC)


def _rle_bmp(width: int, height: int) -> bytes:
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    body = b"".join(bytes([min(width, 255), 77, 0, 0]) for _ in range(min(height, 8))) + b"\0\1"
    at = 14 + 40 + len(palette)
    header = b"BM" + struct.pack("<IHHI", at + len(body), 0, 0, at)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return header + info + palette + body


def test_bmps_with_run_length_encoding_have_a_lower_cap() -> None:
    """A kilobyte of run lengths can make millions of pixels, slowly."""
    assert pixel(_rle_bmp(8, 8)) == [77, 77, 77]
    with pytest.raises(ImageTooLarge, match="run-length"):
        to_array(_rle_bmp(4000, 4000), SPEC)


def test_compressed_text_in_a_png_is_bounded() -> None:
    """A comment that unpacks to 100 MB does not."""
    comment = b"Comment\0\0" + zlib.compress(bytes(100_000_000), 9)
    data = png((1, 1), 8, 0, b"\0\x42", before=png_chunk(b"zTXt", comment))
    with pytest.raises(InvalidImage):
        to_array(data, SPEC)


# The allow-list

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="8" height="8"/></svg>'


@pytest.mark.parametrize(
    "format_", ["ICO", "PPM", "PDF", "EPS", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "AVIF", "ICNS"]
)
def test_other_formats_that_pillow_reads_are_refused(format_: str) -> None:
    """Pillow reads forty formats; the ones that nobody needs here stay shut."""
    data = encode(Image.new("RGB", (32, 32), (1, 2, 3)), format_)
    with pytest.raises(UnsupportedImageFormat, match="Supported: JPEG, PNG, WEBP, GIF, BMP, TIFF"):
        to_array(data, SPEC)


@pytest.mark.parametrize(
    "data",
    [
        SVG,
        b"8BPS\0\1",
        b"%PDF-1.7",
        b"<html><body>",
        b"PK\x03\x04",
        b"\0" * 64,
        b"not an image",
        b"\xff",
        b"GIF",
        b"BM",
    ],
)
def test_what_is_no_image_is_refused(data: bytes) -> None:
    """Text, archives, documents and scraps are no image in a supported format."""
    with pytest.raises(UnsupportedImageFormat):
        to_array(data, SPEC)


def test_nothing_is_refused_as_such() -> None:
    """Zero bytes have a message of their own."""
    with pytest.raises(InvalidImage, match="empty"):
        to_array(b"", SPEC)


def test_the_first_request_imports_no_other_decoder() -> None:
    """Opening an image, of whatever format, imports nothing: the allow-list is all that was ever loaded."""
    code = """
import sys
from app.errors import InvalidImage
from app.preprocessing import Preprocessing, to_array
before = set(sys.modules)
for data in (b"no image", b"II*\\0" + bytes(50), b"RIFF....WEBP"):
    try:
        to_array(data, Preprocessing(height=1, width=1))
    except InvalidImage:
        pass
new = {name for name in set(sys.modules) - before if name.endswith("ImagePlugin")}
print(sorted(new))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(eval(done.stdout)) <= {"PIL.PpmImagePlugin"}  # one of the five that Pillow always imports


# Two formats in one file


def test_a_jpeg_that_is_also_a_zip_is_a_jpeg() -> None:
    """What hangs behind the picture is not looked at."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("evil.sh", "rm -rf /")
    picture = encode(Image.new("RGB", (8, 8), (10, 200, 30)), "JPEG", quality=100)
    assert np.array_equal(to_array(picture + archive.getvalue(), SPEC), to_array(picture, SPEC))


def test_a_gif_that_is_also_a_web_page_is_a_gif() -> None:
    """Markup in a comment, or behind the end, changes nothing."""
    page = b"<script>alert(1)</script>"
    picture = encode(Image.new("RGB", (8, 8), (10, 200, 30)), "GIF", comment=page)
    assert np.array_equal(to_array(picture + page, SPEC), to_array(picture, SPEC))


@pytest.mark.parametrize("format_", ["PNG", "BMP", "TIFF", "WEBP"])
def test_bytes_behind_the_end_are_not_looked_at(format_: str) -> None:
    """Many programs leave some there."""
    data = encode(pattern(8, 8), format_)
    assert np.array_equal(to_array(data + b"PK\x03\x04 and more", SPEC), to_array(data, SPEC))


def test_the_cap_lies_below_pillows_own() -> None:
    """Else Pillow would warn, or refuse, in words of its own."""
    assert Image.MAX_IMAGE_PIXELS is not None
    assert MAX_PIXELS < Image.MAX_IMAGE_PIXELS
