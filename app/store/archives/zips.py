"""Zip archives, read with the standard library behind checks of our own."""

from __future__ import annotations

import errno
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, BinaryIO

from app.errors import InvalidDataset
from app.store.archives.entry import Budget, DamagedEntry, Limits, checked_name, too_many

# The others decompress without a bound on memory, and hardly anything writes them.
_METHODS = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}

_ENCRYPTED = 0x1
_UTF8 = 0x800

# Signatures and sizes of APPNOTE.TXT 4.3.12 (directory entry), 4.3.14 and 4.3.15 (zip64), 4.3.16 (end).
_ENTRY, _ENTRY_SIZE = b"PK\x01\x02", 46
_END, _END_SIZE = b"PK\x05\x06", 22
_END64, _END64_SIZE = b"PK\x06\x06", 56
_LOCATOR, _LOCATOR_SIZE = b"PK\x06\x07", 20
_MAX_COMMENT = 2**16

# What zipfile and zlib raise on hostile bytes.
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    IndexError,
    OverflowError,
)


class ZipEntry:
    """A file of a zip archive."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, budget: Budget) -> None:
        self.name, problem = checked_name(_name(info))
        self.size = info.file_size
        self.problem = problem or _problem(info)
        self._archive = archive
        self._info = info
        self._budget = budget
        self._content: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        try:
            if self._content is None:
                self._content = self._archive.open(self._info)
            # Never more than the directory says: zipfile stops there, and compares the checksum.
            data = self._content.read(size)
        except _ERRORS as error:
            raise DamagedEntry(f"It is damaged in the archive: {error or type(error).__name__}.") from error
        except OSError as error:
            # Not the disk's fault: the directory says that the file begins before the archive does.
            if error.errno == errno.EINVAL:
                raise DamagedEntry("It is damaged in the archive: it lies outside of it.") from error
            raise
        self._budget.spend(len(data))
        return data


class ZipArchive:
    """A zip archive, open for reading."""

    def __init__(self, file: BinaryIO, limits: Limits) -> None:
        """Read the directory.

        Raises:
            InvalidDataset: damaged, encrypted, or more in it than `limits` allow.
        """
        size = file.seek(0, 2)
        self._budget = Budget(limits, size)
        # zipfile reads the whole directory into memory, some 700 bytes an entry: count before.
        _count_entries(file, size, self._budget)
        try:
            self._archive = zipfile.ZipFile(file)
        except _ERRORS as error:
            raise InvalidDataset(_damaged(str(error))) from error
        self._infos = [info for info in self._archive.infolist() if not info.is_dir()]
        self.total: int | None = len(self._infos)
        if len(self._infos) > 2 * limits.max_files:
            raise InvalidDataset(too_many(limits))
        if any(info.flag_bits & _ENCRYPTED for info in self._infos):
            raise InvalidDataset("The archive is encrypted. Upload one without a password.")
        self._budget.expect(sum(info.file_size for info in self._infos))

    def entries(self) -> Iterator[ZipEntry]:
        for info in self._infos:
            yield ZipEntry(self._archive, info, self._budget)


def _name(info: zipfile.ZipInfo) -> str:
    # `filename` is cut at a NUL; what was written is what must be judged.
    if info.flag_bits & _UTF8:
        return info.orig_filename
    try:
        # Without the flag it should be code page 437, but macOS and others write UTF-8.
        return info.orig_filename.encode("cp437").decode("utf-8")
    except UnicodeError:
        return info.orig_filename


def _problem(info: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "It is a symbolic link; only regular files are allowed."
    if kind not in (0, stat.S_IFREG):
        return "It is a device or another special file; only regular files are allowed."
    if info.compress_type not in _METHODS:
        return f"It is compressed with method {info.compress_type}; allowed are {' and '.join(_METHODS.values())}."
    return None


def _count_entries(file: BinaryIO, size: int, budget: Budget) -> None:
    """Walk over the directory in constant memory, as zipfile will do in as much as it takes."""
    position, length = _directory(file, size)
    end = position + length
    while position < end:
        file.seek(position)
        header = file.read(_ENTRY_SIZE)
        if len(header) < _ENTRY_SIZE or not header.startswith(_ENTRY):
            raise InvalidDataset(_damaged("its directory is broken"))
        budget.count_entry()
        position += _ENTRY_SIZE + sum(struct.unpack("<3H", header[28:34]))


def _directory(file: BinaryIO, size: int) -> tuple[int, int]:
    """Position and length of the directory."""
    start = max(0, size - _END_SIZE - _MAX_COMMENT)
    file.seek(start)
    tail = file.read()
    # The end record is last unless a comment follows.
    without_comment = len(tail) - _END_SIZE
    found = (
        without_comment
        if tail[max(0, without_comment) :].startswith(_END) and tail.endswith(b"\0\0")
        else tail.rfind(_END)
    )
    if found < 0 or len(tail) - found < _END_SIZE:
        raise InvalidDataset(_damaged("it has no directory; it may be cut short"))
    (length,) = struct.unpack("<L", tail[found + 12 : found + 16])
    end = start + found
    if end >= _LOCATOR_SIZE + _END64_SIZE:
        file.seek(end - _LOCATOR_SIZE - _END64_SIZE)
        record = file.read(_END64_SIZE)
        if file.read(_LOCATOR_SIZE).startswith(_LOCATOR) and record.startswith(_END64):
            (length,) = struct.unpack("<Q", record[40:48])
            end -= _LOCATOR_SIZE + _END64_SIZE
    if length > end:
        raise InvalidDataset(_damaged("its directory is broken"))
    return end - length, length


def _damaged(detail: str) -> str:
    return f"The zip archive is damaged: {detail.rstrip('.')}."
