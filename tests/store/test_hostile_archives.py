"""Archives that are forged, damaged or too large do no harm, and are refused with the reason."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import InvalidDataset
from app.store.dataset_report import DatasetReport
from app.store.datasets import Datasets
from tests.store.archives import make_tar, make_zip, member, pets, picture

MIB = 2**20


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    return tmp_path / "upload"


def add(upload: Path, **caps: int) -> DatasetReport:
    return Datasets(upload.parent / "datasets", threads=2, **caps).add("pets", upload)


def assert_nothing_left(upload: Path) -> None:
    """Neither a dataset nor staging, and nothing beside the folder it had to stay in."""
    assert sorted(path.name for path in upload.parent.iterdir()) == ["datasets", "upload"]
    assert [path.name for path in (upload.parent / "datasets").rglob("*")] == [".staging"]


class TestPaths:
    @pytest.mark.parametrize("maker", [make_zip, make_tar])
    @pytest.mark.parametrize(
        "name",
        [
            "../evil.png",
            "cat/../../evil.png",
            "/tmp/evil.png",
            "..\\evil.png",
            "C:\\evil.png",
            "C:/evil.png",
            "\\\\server\\evil.png",
            "cat/..",
        ],
    )
    def test_a_name_that_leads_out_refuses_the_whole_archive(
        self, upload: Path, maker: Callable[[Path, dict[str, bytes]], Path], name: str
    ) -> None:
        """No honest program writes one; the message names the entry."""
        maker(upload, pets() | {name: picture()})
        with pytest.raises(InvalidDataset, match="leads out of the archive") as refused:
            add(upload)
        assert name.split("\\")[-1] in str(refused.value)
        assert_nothing_left(upload)

    @pytest.mark.parametrize("maker", [make_zip, make_tar])
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("cat/a\nb.png", "control characters"),
            ("cat/\x1b[2J.png", "control characters"),
            ("cat/" + "x" * 2000 + ".png", "2,008 characters; at most 1,024"),
        ],
    )
    def test_a_name_that_cannot_be_shown_rejects_the_file(
        self, upload: Path, maker: Callable[[Path, dict[str, bytes]], Path], name: str, reason: str
    ) -> None:
        """The report shows it escaped and cut, so that it does no harm in a terminal or a log."""
        report = add(maker(upload, pets() | {name: picture(99)}))
        assert report.images == 6
        assert [reason in rejected.reason for rejected in report.rejected] == [True]
        assert report.rejected[0].name.isprintable()
        assert len(report.rejected[0].name) < 300

    def test_a_zip_name_is_judged_behind_its_nul_too(self, upload: Path) -> None:
        """Some readers stop at a NUL: what two readers take differently is an attack."""
        make_zip(upload, pets() | {"cat/a.pngX/../evil": picture(99)})
        upload.write_bytes(upload.read_bytes().replace(b"a.pngX/../evil", b"a.png\0/../evil"))
        with pytest.raises(InvalidDataset, match="leads out"):
            add(upload)

    def test_a_tar_name_that_is_not_utf8_rejects_the_file(self, upload: Path) -> None:
        """Such a name could be shown nowhere."""
        make_tar(upload, pets() | {"cat/caf\udce9.png": picture(99)}, form=tarfile.GNU_FORMAT)
        report = add(upload)
        assert [(rejected.name, rejected.reason) for rejected in report.rejected] == [
            ("cat/caf\\udce9.png", "Its name is not UTF-8.")
        ]

    @pytest.mark.parametrize("maker", [make_zip, make_tar])
    def test_of_files_with_the_same_name_the_first_counts(
        self, upload: Path, maker: Callable[[Path, dict[str, bytes]], Path]
    ) -> None:
        """The others are rejected, however their name is spelt."""
        maker(upload, pets() | {"./cat//0.png": picture(99)})
        report = add(upload)
        assert report.images == 6
        assert [rejected.reason for rejected in report.rejected] == [
            "The archive has this name twice; the first one counts."
        ]
        sample = next(s for s in Datasets(upload.parent / "datasets").load("pets").samples if s.name == "cat/0.png")
        assert sample.file.read_bytes() == picture(0)


class TestSpecialFiles:
    @pytest.mark.parametrize(
        ("kind", "reason"),
        [
            (tarfile.SYMTYPE, "symbolic link"),
            (tarfile.LNKTYPE, "hard link"),
            (tarfile.CHRTYPE, "device"),
            (tarfile.BLKTYPE, "device"),
            (tarfile.FIFOTYPE, "named pipe"),
            (tarfile.GNUTYPE_SPARSE, "sparse"),
            (b"Z", "neither a file nor a folder"),
        ],
    )
    def test_only_regular_files_of_a_tar_are_taken(self, upload: Path, kind: bytes, reason: str) -> None:
        """Links, devices and pipes are rejected, and what follows them is read all the same."""
        with tarfile.open(upload, "w") as archive:
            archive.addfile(member("cat/odd.png", kind=kind, target="../../../../etc/passwd"))
            for name, data in pets().items():
                archive.addfile(member(name, len(data)), io.BytesIO(data))
        report = add(upload)
        assert report.images == 6
        assert [rejected.name for rejected in report.rejected] == ["cat/odd.png"]
        assert reason in report.rejected[0].reason
        assert not any(path.is_symlink() for path in (upload.parent / "datasets").rglob("*"))

    def test_sparse_files_are_passed_over_with_all_their_headers(self, upload: Path) -> None:
        """A sparse file of GNU tar has further header blocks, then data, and none of it is an entry."""
        header = bytearray(member("cat/odd.png", 512, tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT))
        header[482] = 1
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        more = bytes(504) + b"\1" + bytes(7) + bytes(512)
        upload.write_bytes(bytes(header) + more + b"d" * 512 + make_tar(upload, pets()).read_bytes())
        assert (add(upload).images, add_again(upload).rejected_files) == (6, 1)

    @pytest.mark.parametrize(("mode", "reason"), [(0o120777, "symbolic link"), (0o020666, "special file")])
    def test_only_regular_files_of_a_zip_are_taken(self, upload: Path, mode: int, reason: str) -> None:
        """Zips can hold links and devices as well."""
        make_zip(upload, pets())
        with zipfile.ZipFile(upload, "a") as archive:
            info = zipfile.ZipInfo("cat/odd.png")
            info.external_attr = mode << 16
            archive.writestr(info, "/etc/passwd")
        report = add(upload)
        assert [rejected.name for rejected in report.rejected] == ["cat/odd.png"]
        assert reason in report.rejected[0].reason

    def test_an_encrypted_zip_is_refused(self, upload: Path) -> None:
        """The message says what to do."""
        make_zip(upload, pets())
        data = bytearray(upload.read_bytes())
        data[data.rindex(b"PK\x01\x02") + 8] |= 1
        upload.write_bytes(data)
        with pytest.raises(InvalidDataset, match=r"encrypted\. Upload one without a password"):
            add(upload)

    @pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    def test_rare_compression_in_a_zip_rejects_the_file(self, upload: Path, method: int) -> None:
        """Their decompressors have no bound on memory."""
        make_zip(upload, {"cat/a.png": picture(99)}, method=method)
        with zipfile.ZipFile(upload, "a") as archive:
            for name, data in pets().items():
                archive.writestr(name, data)
        assert "allowed are stored and deflated" in add(upload).rejected[0].reason


class TestCaps:
    @pytest.mark.parametrize("maker", [make_zip, make_tar])
    def test_too_many_files_are_refused(self, upload: Path, maker: Callable[[Path, dict[str, bytes]], Path]) -> None:
        """The number that is allowed passes, one more does not."""
        maker(upload, pets(each=10))
        assert add(upload, max_files=20).images == 20
        with pytest.raises(InvalidDataset, match="more than the 19 files that are allowed"):
            add_again(upload, max_files=19)

    @pytest.mark.parametrize("maker", [make_zip, make_tar])
    def test_entries_that_are_no_files_are_bounded_too(
        self, upload: Path, maker: Callable[[Path, dict[str, bytes]], Path]
    ) -> None:
        """A million folders, or of macOS's shadows, cost as much."""
        maker(upload, {f"__MACOSX/{n}": b"" for n in range(1100)} | pets())
        with pytest.raises(InvalidDataset, match="more than the 10 files"):
            add(upload, max_files=10)
        assert_nothing_left(upload)

    @pytest.mark.parametrize("maker", [make_zip, make_tar])
    def test_too_many_bytes_are_refused(self, upload: Path, maker: Callable[[Path, dict[str, bytes]], Path]) -> None:
        """Counted unpacked, images or not."""
        maker(upload, pets() | {"notes.txt": b"x" * 100_000})
        with pytest.raises(InvalidDataset, match="more than the 100,000 bytes that are allowed"):
            add(upload, max_bytes=100_000)
        assert_nothing_left(upload)

    def test_a_zip_over_the_cap_is_refused_before_anything_is_unpacked(self, upload: Path) -> None:
        """A zip tells its size beforehand."""
        make_zip(upload, pets() | {"notes.txt": b"x" * 100_000})
        datasets = Datasets(upload.parent / "datasets", max_bytes=100_000)
        calls: list[int] = []
        with pytest.raises(InvalidDataset, match="100,000 bytes"):
            datasets.add("pets", upload, progress=lambda done, _: calls.append(done))
        assert calls == []

    def test_one_enormous_file_is_rejected_unread(self, upload: Path) -> None:
        """An image is decoded from memory; beyond 64 MiB it is none that a person took."""
        with tarfile.open(upload, "w") as archive:
            for name, data in (pets() | {"cat/big.bmp": b"BM" + bytes(65 * MIB)}).items():
                archive.addfile(member(name, len(data)), io.BytesIO(data))
        assert "at most 67,108,864 are allowed" in add(upload).rejected[0].reason


# Adds an archive and reports by how many bytes the process grew meanwhile.
_MEASURE = """
import json, resource, sys
from pathlib import Path
from app.errors import InvalidDataset
from app.store.datasets import Datasets
from tests.store.archives import make_zip, pets

root = Path(sys.argv[1])
datasets = Datasets(root / "datasets", threads=1)
datasets.add("warm", make_zip(root / "warm", pets()))
for number, upload in enumerate(sys.argv[2:]):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        said = str(datasets.add(f"bomb{number}", Path(upload)).rejected)
    except InvalidDataset as error:
        said = str(error)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    disk = sum(path.stat().st_size for path in (root / "datasets" / ".staging").rglob("*"))
    print(json.dumps([said, grown * 1024, disk]))
"""


def test_bombs_are_refused_in_bounded_memory(tmp_path: Path) -> None:
    """Small files that unpack to hundreds of megabytes, in every format and at every weak spot of it."""
    bombs = {
        "zip": _zip_bomb(tmp_path / "zip"),
        "zip that lies": _lying_zip(tmp_path / "lying"),
        "zip directory": _wide_zip(tmp_path / "wide"),
        "tar.gz": _compressed(tmp_path / "gz", zlib.compressobj(9, wbits=31)),
        "tar.bz2": _compressed(tmp_path / "bz2", bz2.BZ2Compressor(9)),
        "tar header": _header_bomb(tmp_path / "header"),
        "chain of tar headers": _header_chain(tmp_path / "chain"),
    }
    command = [sys.executable, "-c", _MEASURE, str(tmp_path), *map(str, bombs.values())]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    results = dict(zip(bombs, map(json.loads, done.stdout.splitlines()), strict=True))
    expected = {
        "zip": "200 times its size",
        "zip that lies": "damaged in the archive",
        "zip directory": "more than the 1,000,000 files",
        "tar.gz": "200 times its size",
        "tar.bz2": "200 times its size",
        "tar header": "extended header of 104,857,600 bytes",
        "chain of tar headers": "200 times its size",
    }
    for bomb, (said, grown, disk) in results.items():
        assert expected[bomb] in said
        assert grown < 48 * MIB, bomb
        assert disk == 0, bomb


class TestDamage:
    @pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2"])
    def test_an_archive_that_is_cut_short_is_refused(self, upload: Path, kind: str) -> None:
        """Wherever the transfer broke off, even between two files: never is a part taken for the whole."""
        files = pets(each=2)
        if kind == "zip":
            whole = make_zip(upload, files).read_bytes()
        else:
            whole = make_tar(upload, files, compression=kind[4:]).read_bytes()
        # Behind the first block of zeros a tar has nothing but more of them.
        end = whole.rindex(b"IEND") // 512 * 512 + 512 if kind == "tar" else len(whole) - 1
        cuts = sorted({*range(0, end + 1, max(1, end // 40)), *range(512, end + 1, 512), end})
        for cut in cuts:
            upload.write_bytes(whole[:cut])
            with pytest.raises(InvalidDataset):
                add(upload)
        assert_nothing_left(upload)

    def test_garbage_in_the_middle_of_a_tar_is_no_end(self, upload: Path) -> None:
        """A reader that stops there would take a part for the whole."""
        data = bytearray(make_tar(upload, pets(each=2)).read_bytes())
        data[1024:1030] = b"broken"
        upload.write_bytes(data)
        with pytest.raises(InvalidDataset, match="a header is broken"):
            add(upload)

    def test_a_broken_checksum_of_gzip_is_noticed(self, upload: Path) -> None:
        """It stands at the very end, behind the tar's own end."""
        data = bytearray(make_tar(upload, pets(), compression="gz").read_bytes())
        data[-5] ^= 1
        upload.write_bytes(data)
        with pytest.raises(InvalidDataset, match="damaged"):
            add(upload)

    def test_a_damaged_file_in_a_zip_is_rejected_alone(self, upload: Path) -> None:
        """A zip's files stand each for itself."""
        data = bytearray(make_zip(upload, pets(), method=zipfile.ZIP_STORED).read_bytes())
        data[data.index(b"IDAT") + 5] ^= 1
        upload.write_bytes(data)
        report = add(upload)
        assert (report.images, report.rejected_files) == (5, 1)
        assert "damaged in the archive: Bad CRC-32" in report.rejected[0].reason

    def test_a_file_that_begins_before_its_zip_does_is_rejected(self, upload: Path) -> None:
        """A directory that is said to lie a byte too far moves every file a byte towards the front."""
        data = bytearray(make_zip(upload, pets(), method=zipfile.ZIP_STORED).read_bytes())
        end = data.rindex(b"PK\x05\x06")
        data[end + 16] += 1
        upload.write_bytes(data)
        with pytest.raises(InvalidDataset, match="lies outside of it"):
            add(upload)

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "empty (0 bytes)"),
            (b"no archive at all", "no archive that can be read"),
            (b"x" * 5000, "no archive that can be read. Allowed: zip, tar, tar.gz and tar.bz2"),
            (picture(), "a single image"),
            (picture(kind="JPEG"), "a single image"),
            (lzma.compress(b"x"), "an xz file"),
            (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive"),
            (b"Rar!\x1a\x07\x01\x00", "a RAR archive"),
            (gzip.compress(b"just text" * 100, mtime=0), "no archive that can be read"),
            (gzip.compress(b"", mtime=0), "no archive that can be read"),
            (bytes(10240), "no usable image"),
            (b"PK\x05\x06" + bytes(18), "no usable image"),
            (b"PK\x05\x06" + b"\xff" * 16 + bytes(2), "damaged"),
            (b"PK\x03\x04" + bytes(100), "has no directory; it may be cut short"),
        ],
    )
    def test_what_is_no_archive_is_refused_with_what_is_allowed(self, upload: Path, data: bytes, message: str) -> None:
        """Whatever was uploaded instead."""
        upload.write_bytes(data)
        with pytest.raises(InvalidDataset) as refused:
            add(upload)
        assert message in str(refused.value)

    @given(data=st.data())
    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_whatever_bits_are_flipped_it_is_added_or_refused(self, upload: Path, data: st.DataObject) -> None:
        """No damage causes anything but the one kind of error."""
        kind = data.draw(st.sampled_from(["zip", "tar", "gz"]))
        maker = (
            make_zip(upload, pets(each=1)) if kind == "zip" else make_tar(upload, pets(each=1), compression=kind[3:])
        )
        content = bytearray(maker.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            position = data.draw(st.integers(0, min(len(content), 4096) - 1))
            content[position] = data.draw(st.integers(0, 255))
        upload.write_bytes(gzip.compress(content, 1) if kind == "gz" else content)
        try:
            images = add_again(upload).images
        except InvalidDataset:
            images = None
        assert images is None or images >= 2


def add_again(upload: Path, **caps: int) -> DatasetReport:
    """Add to a fresh folder of datasets."""
    numbers = len(list(upload.parent.glob("again*")))
    return Datasets(upload.parent / f"again{numbers}", threads=2, **caps).add("pets", upload)


def _zip_bomb(path: Path) -> Path:
    """100 MiB out of some 100 KiB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for label in ("cat", "dog"):
            for number in range(2):
                archive.writestr(f"{label}/{number}.bmp", b"BM" + bytes(25 * MIB))
    return path


def _lying_zip(path: Path) -> Path:
    """Entries that unpack to 40 MiB each, but whose directory says 100 bytes."""
    files = {f"{label}/{n}.bmp": b"BM" + bytes(40 * MIB) for label in ("cat", "dog") for n in range(2)}
    data = make_zip(path, files | pets()).read_bytes()
    path.write_bytes(data.replace(struct.pack("<L", 40 * MIB + 2), struct.pack("<L", 100)))
    return path


def _wide_zip(path: Path) -> Path:
    """A directory of two million and two thousand entries, each an empty file, in 94 MB."""
    entry = zipfile.ZipInfo("a")
    record = b"PK\x01\x02" + struct.pack("<4B4HL2L5H2L", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    assert len(record) == 47
    assert entry.filename == "a"
    count = 2_002_000
    with path.open("wb") as file:
        file.write(b"PK\x03\x04")
        for _ in range(count // 1000):
            file.write(record * 1000)
        size = count * len(record)
        file.write(b"PK\x06\x06" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, count, count, size, 4))
        file.write(b"PK\x06\x07" + struct.pack("<LQL", 0, 4 + size, 1))
        file.write(b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0))
    return path


def _compressed(path: Path, compressor: zlib._Compress | bz2.BZ2Compressor) -> Path:
    """A tar with files of 120 MiB together."""
    with path.open("wb") as file:
        for number in range(6):
            file.write(compressor.compress(member(f"cat/{number}.bmp", 20 * MIB).tobuf()))
            for _ in range(20):
                file.write(compressor.compress(b"BM" + bytes(MIB - 2)))
        file.write(compressor.compress(bytes(1024)))
        file.write(compressor.flush())
    return path


def _header_bomb(path: Path) -> Path:
    """A tar whose first header announces 100 MiB of further header."""
    header = member("long", 100 * MIB, tarfile.XHDTYPE).tobuf()
    path.write_bytes(gzip.compress(header + bytes(100 * MIB), 1))
    return path


def _header_chain(path: Path) -> Path:
    """A tar of nothing but headers that extend headers."""
    block = member("long", MIB, tarfile.XGLTYPE).tobuf() + b"1048576 comment=" + b"x" * (MIB - 17) + b"\n"
    compressor = zlib.compressobj(9, wbits=31)
    with path.open("wb") as file:
        for _ in range(80):
            file.write(compressor.compress(block))
        file.write(compressor.flush())
    return path
