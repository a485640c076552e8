"""The short way of plain PNGs gives what the general one gives: the same array, or the same error in the same words.

Every file here goes both ways. It does not matter which of them are sound: what Pillow makes of a file is the answer.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from itertools import pairwise, product
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageFile

from app import png
from app.preprocessing import MAX_PIXELS, Preprocessing, to_array
from tests.preprocessing.images import encode, oriented, pattern, png_chunk

Outcome = tuple[str, ...] | tuple[bytes, str, bool, bool]
Fit = Literal["stretch", "crop", "pad"]
SIGNATURE = b"\x89PNG\r\n\x1a\n"
END = png_chunk(b"IEND", b"")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
SPECS = [
    Preprocessing(height=height, width=width, color=color, fit=fit)
    for (height, width), color, fit in product([(9, 12), (5, 5)], ["rgb", "grayscale"], ["stretch", "crop", "pad"])
]
HARMLESS = [
    png_chunk(b"gAMA", struct.pack(">I", 45455)),
    png_chunk(b"cHRM", bytes(32)),
    png_chunk(b"sRGB", b"\0"),
    png_chunk(b"pHYs", struct.pack(">IIB", 2835, 2835, 1)),
    png_chunk(b"sBIT", b"\x08\x08\x08"),
    png_chunk(b"bKGD", bytes(6)),
    png_chunk(b"tIME", b"\x07\xea\x0b\x16\x16\x20\x0d"),
]
XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><a tiff:Orientation="6"/></x:xmpmeta>'
EXIF = oriented(6).tobytes()
PROFILE_NAME = b"Raw profile type exif\0"
PROFILE = b"\nexif\n" + str(len(EXIF)).encode() + b"\n" + EXIF.hex().encode()
OTHERS = {
    "colour key": png_chunk(b"tRNS", bytes((0, 20, 0, 20, 0, 20))),
    "colour key cut short": png_chunk(b"tRNS", b"\0"),
    "palette": png_chunk(b"PLTE", bytes(range(30))),
    "exif": png_chunk(b"eXIf", EXIF[6:]),
    "xmp": png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP),
    "xmp as plain text": png_chunk(b"tEXt", b"XML:com.adobe.xmp\0" + XMP),
    "exif in a comment": png_chunk(b"tEXt", PROFILE_NAME + PROFILE),
    "exif in a compressed comment": png_chunk(b"zTXt", PROFILE_NAME + b"\0" + zlib.compress(PROFILE)),
    "a comment called transparency": png_chunk(b"tEXt", b"transparency\x0020"),
    "a comment called interlace": png_chunk(b"tEXt", b"interlace\x001"),
    "a comment called bbox": png_chunk(b"tEXt", b"bbox\x001"),
    "a comment": png_chunk(b"tEXt", b"Software\0of no interest"),
    "colour profile": png_chunk(b"iCCP", b"sRGB\0\0" + zlib.compress(bytes(200))),
    "animation": png_chunk(b"acTL", struct.pack(">II", 2, 0)),
    "frame": png_chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 6, 4, 1, 1, 1, 10, 0, 0)),
    "gamma cut short": png_chunk(b"gAMA", bytes(3)),
    "resolution cut short": png_chunk(b"pHYs", bytes(8)),
    "chromaticities cut short": png_chunk(b"cHRM", bytes(31)),
    "rendering intent cut short": png_chunk(b"sRGB", b""),
    "second header": png_chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 8, 2, 0, 0, 0)),
    "end": END,
    "unknown": png_chunk(b"prVt", b"private"),
    "unknown and critical": png_chunk(b"ABCD", b"?"),
    "no name": png_chunk(b"\0\0\0\0", b""),
    "wrong checksum": png_chunk(b"gAMA", bytes(4))[:-1] + b"\0",
    "length beyond the file": struct.pack(">I", 2**32 - 1) + b"gAMA" + bytes(8),
}


def _outcome(data: bytes, spec: Preprocessing, max_pixels: int) -> Outcome:
    try:
        array = to_array(data, spec, max_pixels=max_pixels)
    except Exception as error:
        return (type(error).__name__, str(error))
    assert array.shape == spec.shape
    return (array.tobytes(), str(array.dtype), array.flags.c_contiguous, array.flags.writeable)


def _goes_the_short_way(data: bytes, *, max_pixels: int = MAX_PIXELS, spec: Preprocessing | None = None) -> bool:
    """Compare both ways; tell whether the short one was really taken."""
    for each in SPECS if spec is None else [spec]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(png, "decode", lambda *_: None)
            expected = _outcome(data, each, max_pixels)
        assert _outcome(data, each, max_pixels) == expected, (each, data.hex())
    return png.decode(data, max_pixels) is not None


def _file(
    compressed: bytes,
    *,
    size: tuple[int, int] = (12, 9),
    kind: tuple[int, int, int, int, int] = (8, 2, 0, 0, 0),
    before: bytes = b"",
    after: bytes = b"",
    cuts: tuple[int, ...] = (),
) -> bytes:
    """A PNG of (width, height), its data cut into chunks; `kind` is the rest of the header."""
    places = [0, *cuts, len(compressed)]
    chunks = [png_chunk(b"IDAT", compressed[a:b]) for a, b in pairwise(places)]
    header = png_chunk(b"IHDR", struct.pack(">II5B", *size, *kind))
    return SIGNATURE + header + before + b"".join(chunks) + after + END


def _rows(random: Random, size: tuple[int, int], bits: int, *, filters: int = 4, interlaced: bool = False) -> bytes:
    """What the header promises: rows of noise with random filters, in seven passes where interlaced."""
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b""
    for left, top, across, down in passes:
        width, height = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        if width > 0 and height > 0:
            length = (width * bits + 7) // 8
            rows += b"".join(bytes([random.randint(0, filters)]) + random.randbytes(length) for _ in range(height))
    return rows


PLAIN = zlib.compress(_rows(Random(0), (12, 9), 24))


# Plain


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(1, 1), (9, 12), (28, 28), (3, 200), (64, 48)])
def test_what_pillow_saves_of_grey_and_rgb_goes_the_short_way(mode: str, size: tuple[int, int]) -> None:
    """So do most small pictures that a client sends."""
    assert _goes_the_short_way(encode(Image.fromarray(pattern(*size)).convert(mode), "PNG"))


@pytest.mark.parametrize("chunk", HARMLESS, ids=lambda chunk: chunk[4:8].decode())
def test_chunks_that_change_no_pixel_are_passed_over(chunk: bytes) -> None:
    """Gamma, resolution, time and their like are there or not: the picture is the same."""
    assert _goes_the_short_way(_file(PLAIN, before=chunk))
    assert np.array_equal(to_array(_file(PLAIN, before=chunk), SPECS[0]), to_array(_file(PLAIN), SPECS[0]))


@pytest.mark.parametrize("filtering", range(5))
def test_every_filter_is_undone(filtering: int) -> None:
    """The five filters of PNG, each for a whole picture."""
    random = Random(filtering)
    for kind, length in ((0, 12), (2, 36)):
        rows = b"".join(bytes([filtering]) + random.randbytes(length) for _ in range(9))
        assert _goes_the_short_way(_file(zlib.compress(rows), kind=(8, kind, 0, 0, 0)))


# Not plain


@pytest.mark.parametrize("name", OTHERS)
def test_other_chunks_are_left_to_the_general_way(name: str) -> None:
    """Before or behind the pixels, among harmless ones or not, in grey or RGB: whatever Pillow makes of them stands."""
    for before, after in ((OTHERS[name], b""), (HARMLESS[0] + OTHERS[name] + HARMLESS[1], b""), (b"", OTHERS[name])):
        assert not _goes_the_short_way(_file(PLAIN, before=before, after=after))
        grey = zlib.compress(_rows(Random(1), (12, 9), 8))
        assert not _goes_the_short_way(_file(grey, kind=(8, 0, 0, 0, 0), before=before, after=after))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA", "I;16"])
def test_other_modes_are_left_to_the_general_way(mode: str) -> None:
    """Alpha, palettes, 1 bit and 16 have their own rules."""
    picture = Image.fromarray(pattern(9, 12))
    other = picture.convert("L").convert(mode) if mode in ("1", "LA", "I;16") else picture.convert(mode)
    assert not _goes_the_short_way(encode(other, "PNG"))


@pytest.mark.parametrize("place", range(5))
@pytest.mark.parametrize("value", [1, 4, 16, 255])
def test_other_headers_are_left_to_the_general_way(place: int, value: int) -> None:
    """Depth, colour type, compression, filter and interlacing: anything but the usual, and what Pillow says to it."""
    kind = [8, 2, 0, 0, 0]
    kind[place] = value
    assert not _goes_the_short_way(_file(PLAIN, kind=(kind[0], kind[1], kind[2], kind[3], kind[4])))


def test_data_in_several_chunks_is_left_to_the_general_way() -> None:
    """A decoder that gets its bytes in pieces could come to another end."""
    for cuts in ((0,), (1,), (len(PLAIN) // 2,), (len(PLAIN),), (len(PLAIN) - 4, len(PLAIN) - 2)):
        assert not _goes_the_short_way(_file(PLAIN, cuts=cuts))


def test_data_of_more_than_a_block_is_left_to_the_general_way() -> None:
    """Pillow gives its decoder a block at a time; up to just that size the short way is taken."""
    rows = _rows(Random(2), (400, 54), 24)
    spec = SPECS[0]
    for excess in (0, 1):
        data = zlib.compress(rows, 0)
        data += bytes(ImageFile.MAXBLOCK + excess - len(data))
        assert _goes_the_short_way(_file(data, size=(400, 54)), spec=spec) == (excess == 0)


def test_what_surrounds_the_file_is_left_to_the_general_way() -> None:
    """Bytes behind the end or before the start, and a second file behind the first."""
    plain = _file(PLAIN)
    for data in (
        plain + b"\0",
        plain + END,
        plain + plain,
        b"\0" + plain,
        plain[8:],
        SIGNATURE + plain,
        SIGNATURE + END,
    ):
        assert not _goes_the_short_way(data)


def test_an_animation_is_left_to_the_general_way() -> None:
    """Its first frame counts, wherever that stands."""
    frames = [Image.fromarray(np.roll(pattern(9, 12), n, axis=0)) for n in range(3)]
    for default in (False, True):
        data = encode(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=default)
        assert not _goes_the_short_way(data)


# Sizes


@pytest.mark.parametrize(
    "size", [(0, 9), (12, 0), (0, 0), (2**31, 1), (2**32 - 1, 2**32 - 1), (60_000, 60_000), (10_000, 10_000)]
)
def test_sizes_that_cannot_be_are_left_to_the_general_way(size: tuple[int, int]) -> None:
    """Nothing and too much: refused in the same words."""
    assert not _goes_the_short_way(_file(PLAIN, size=size))


def test_the_cap_on_pixels_is_the_same() -> None:
    """At the cap, and one pixel over it."""
    assert _goes_the_short_way(_file(PLAIN), max_pixels=12 * 9)
    assert not _goes_the_short_way(_file(PLAIN), max_pixels=12 * 9 - 1)


def test_large_pictures_are_left_to_the_general_way() -> None:
    """So a small file with a huge claim costs what it did before."""
    rows = bytes(1001) * 1001
    data = zlib.compress(rows, 9)
    assert _goes_the_short_way(_file(data, size=(1000, 1000), kind=(8, 0, 0, 0, 0)), spec=SPECS[0])
    assert not _goes_the_short_way(_file(data, size=(1000, 1001), kind=(8, 0, 0, 0, 0)), spec=SPECS[0])


# Damage


def test_a_file_cut_anywhere_comes_to_the_same_end() -> None:
    """At every byte, with and without the chunk that ends it."""
    plain = _file(PLAIN, before=HARMLESS[0])
    for end in range(len(plain)):
        assert not _goes_the_short_way(plain[:end], spec=SPECS[0])
        if end < len(plain) - len(END):
            assert not _goes_the_short_way(plain[:end] + END, spec=SPECS[0])


def test_a_chunk_that_swallows_the_end_comes_to_the_same_end() -> None:
    """Four bytes in a harmless chunk can make its checksum that of the end, which it then takes as its own."""

    def checksum(free: int) -> int:
        return zlib.crc32(b"tIME" + free.to_bytes(4, "big") + END[:8])

    # Checksums are linear: each bit of the free bytes flips its own set of bits, so some of them flip any set.
    flips: dict[int, tuple[int, int]] = {}
    wanted, free = checksum(0) ^ zlib.crc32(b"IEND"), 0
    for bit in range(32):
        flip, by = checksum(1 << bit) ^ checksum(0), 1 << bit
        while flip.bit_length() in flips:
            other, others = flips[flip.bit_length()]
            flip, by = flip ^ other, by ^ others
        flips[flip.bit_length()] = (flip, by)
    while wanted:
        flip, by = flips[wanted.bit_length()]
        wanted, free = wanted ^ flip, free ^ by
    assert checksum(free) == zlib.crc32(b"IEND")

    header = png_chunk(b"IHDR", struct.pack(">II5B", 12, 9, 8, 2, 0, 0, 0))
    swallowing = struct.pack(">I4sI", 12, b"tIME", free)
    assert not _goes_the_short_way(SIGNATURE + header + swallowing + END, spec=SPECS[0])
    assert not _goes_the_short_way(_file(PLAIN)[: -len(END)] + swallowing + END, spec=SPECS[0])


def test_data_cut_anywhere_comes_to_the_same_end() -> None:
    """Compressed data that ends too early, in a chunk that is sound, in each of zlib's kinds of blocks."""
    rows = _rows(Random(3), (12, 9), 24)
    for level, strategy in ((0, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FIXED)):
        for picture in (rows, bytes(len(rows))):
            packer = zlib.compressobj(level, strategy=strategy)
            data = packer.compress(picture) + packer.flush()
            short = [_goes_the_short_way(_file(data[:end]), spec=SPECS[0]) for end in range(len(data) + 1)]
            assert short[-1]
            assert not any(short[:-5])


def test_rows_too_few_or_too_many_come_to_the_same_end() -> None:
    """Whether Pillow passes over it or not."""
    rows = _rows(Random(4), (12, 9), 24)
    for length in (*range(0, len(rows), 5), len(rows) - 1, len(rows), len(rows) + 1, len(rows) * 40):
        data = zlib.compress((rows * 40)[:length])
        for behind in (b"", b"\0", b"\0" * 9, data):
            for damaged in (data, data[:-1] + b"\0", data[:-4]):
                _goes_the_short_way(_file(damaged + behind), spec=SPECS[0])


def _made(random: Random) -> bytes:
    """A PNG of any kind, mostly sound: depths, colours, chunks, cuts and filters at random."""
    size = (random.randint(1, 14), random.randint(1, 12))
    depth, color = random.choice([(8, 0), (8, 2)] * 7 + [(1, 0), (4, 0), (16, 0), (16, 2), (8, 3), (8, 4), (8, 6)])
    interlaced = random.random() < 0.1
    rows = _rows(random, size, depth * CHANNELS[color], filters=random.choice([4] * 9 + [6]), interlaced=interlaced)
    rows = rows[: len(rows) + random.choice([0] * 9 + [-1, -40])] + bytes(random.choice([0] * 9 + [1, 300]))
    data = zlib.compress(rows, random.randint(0, 9)) + random.choice([b""] * 9 + [b"\0", b"more"])
    chunks = HARMLESS * 20 + list(OTHERS.values())
    return _file(
        data,
        size=size,
        kind=(depth, color, 0, 0, int(interlaced)),
        before=b"".join(random.choices(chunks, k=random.choice([0, 0, 0, 1, 2, 3]))),
        after=b"".join(random.choices(chunks, k=random.choice([0] * 9 + [1, 2]))),
        cuts=tuple(sorted(random.choices(range(len(data)), k=random.choice([0] * 6 + [1, 3])))),
    ) + random.choice([b""] * 9 + [b"\0" * 12])


def _broken(random: Random, data: bytes) -> Iterator[bytes]:
    """The file with bits flipped, bytes lost and bytes doubled; some of them with checksums made right again."""
    places = [random.randrange(len(data)) for _ in range(3)]
    flipped = bytearray(data)
    for place in places[: random.randint(1, 3)]:
        flipped[place] ^= 1 << random.randrange(8)
    yield bytes(flipped)
    yield _with_checksums(bytes(flipped))
    yield data[: places[0]] + data[places[0] + random.randint(1, 4) :]
    yield data[: places[0]] + data[max(0, places[0] - random.randint(1, 40)) :]


def _with_checksums(data: bytes) -> bytes:
    fixed = io.BytesIO(data)
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        if at + 12 + length > len(data):
            break
        fixed.seek(at + 8 + length)
        fixed.write(struct.pack(">I", zlib.crc32(data[at + 4 : at + 8 + length])))
        at += 12 + length
    return fixed.getvalue()


@pytest.mark.parametrize("seed", range(4))
def test_files_of_all_kinds_come_to_the_same_end(seed: int) -> None:
    """Whatever is put together at random, whole or broken: both ways agree."""
    random = Random(seed)
    short = broken = 0
    for _ in range(300):
        data = _made(random)
        short += _goes_the_short_way(data, spec=random.choice(SPECS), max_pixels=random.choice([MAX_PIXELS] * 4 + [60]))
        for damaged in _broken(random, data):
            broken += _goes_the_short_way(damaged, spec=random.choice(SPECS))
    # Both ways were really gone.
    assert 40 < short < 240
    assert 0 < broken < 600


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_damaged_files_leave_nothing_behind(tmp_path: Path) -> None:
    """A decoder that is left half way gives its memory back."""
    file = tmp_path / "cut.png"
    file.write_bytes(_file(zlib.compress(bytes(range(250)) * 300)[:-9], size=(5000, 5)))
    code = """
import sys
from pathlib import Path
from app import png
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
cut = Path(sys.argv[1]).read_bytes()
for _ in range(50):
    assert png.decode(cut, 10**6) is None
before = resident()
for _ in range(1000):
    png.decode(cut, 10**6)
print(resident() - before)
"""
    done = subprocess.run([sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4_000_000
