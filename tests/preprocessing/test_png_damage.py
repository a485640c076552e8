"""Damaged PNGs, and such as a machine puts together at random, come to the same end on both ways."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from app.preprocessing import MAX_PIXELS
from tests.preprocessing.images import png_chunk
from tests.preprocessing.pngs import (
    CHANNELS,
    END,
    HARMLESS,
    OTHERS,
    PIXELS,
    SIGNATURE,
    SPECS,
    file_of,
    goes_the_short_way,
    noise,
)


def test_a_file_cut_anywhere_comes_to_the_same_end() -> None:
    """At every byte, with and without the chunk that ends it."""
    plain = file_of(PIXELS, before=HARMLESS[0])
    for end in range(len(plain)):
        assert not goes_the_short_way(plain[:end], spec=SPECS[0])
        if end < len(plain) - len(END):
            assert not goes_the_short_way(plain[:end] + END, spec=SPECS[0])


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
    assert not goes_the_short_way(SIGNATURE + header + swallowing + END, spec=SPECS[0])
    assert not goes_the_short_way(file_of(PIXELS)[: -len(END)] + swallowing + END, spec=SPECS[0])


def test_data_cut_anywhere_comes_to_the_same_end() -> None:
    """Compressed data that ends too early, in a chunk that is sound, in each of zlib's kinds of blocks."""
    rows = noise(Random(3), (12, 9), 24)
    for level, strategy in ((0, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_DEFAULT_STRATEGY), (9, zlib.Z_FIXED)):
        for picture in (rows, bytes(len(rows))):
            packer = zlib.compressobj(level, strategy=strategy)
            data = packer.compress(picture) + packer.flush()
            short = [goes_the_short_way(file_of(data[:end]), spec=SPECS[0]) for end in range(len(data) + 1)]
            assert short[-1]
            assert not any(short[:-5])


def test_rows_too_few_or_too_many_come_to_the_same_end() -> None:
    """Whether Pillow passes over it or not."""
    rows = noise(Random(4), (12, 9), 24)
    for length in (*range(0, len(rows), 5), len(rows) - 1, len(rows), len(rows) + 1, len(rows) * 40):
        data = zlib.compress((rows * 40)[:length])
        for behind in (b"", b"\0", b"\0" * 9, data):
            for damaged in (data, data[:-1] + b"\0", data[:-4]):
                goes_the_short_way(file_of(damaged + behind), spec=SPECS[0])


def _made(random: Random) -> bytes:
    """A PNG of any kind, mostly sound: depths, colours, chunks, cuts and filters at random."""
    size = (random.randint(1, 14), random.randint(1, 12))
    depth, color = random.choice([(8, 0), (8, 2)] * 7 + [(1, 0), (4, 0), (16, 0), (16, 2), (8, 3), (8, 4), (8, 6)])
    interlaced = random.random() < 0.1
    rows = noise(random, size, depth * CHANNELS[color], filters=random.choice([4] * 9 + [6]), interlaced=interlaced)
    rows = rows[: len(rows) + random.choice([0] * 9 + [-1, -40])] + bytes(random.choice([0] * 9 + [1, 300]))
    data = zlib.compress(rows, random.randint(0, 9)) + random.choice([b""] * 9 + [b"\0", b"more"])
    chunks = HARMLESS * 20 + list(OTHERS.values())
    return file_of(
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
        short += goes_the_short_way(data, spec=random.choice(SPECS), max_pixels=random.choice([MAX_PIXELS] * 4 + [60]))
        for damaged in _broken(random, data):
            broken += goes_the_short_way(damaged, spec=random.choice(SPECS))
    # Both ways were really gone.
    assert 40 < short < 240
    assert 0 < broken < 600


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_damaged_files_leave_nothing_behind(tmp_path: Path) -> None:
    """A decoder that is left half way gives its memory back."""
    file = tmp_path / "cut.png"
    file.write_bytes(file_of(zlib.compress(bytes(range(250)) * 300)[:-9], size=(5000, 5)))
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
