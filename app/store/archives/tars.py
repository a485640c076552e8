"""Tar archives, plain or compressed, read once from front to end.

A reader of our own: the standard library's keeps every header in memory, reads extended headers
of any size, recurses over chains of them, and takes damage in the middle for the end. This one
is strict, linear in time and constant in memory. It knows ustar, pax and GNU long names.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import BinaryIO

from app.errors import InvalidDataset
from app.store.archives.entry import CHUNK, Budget, Limits, checked_name

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
# Extended headers hold a long name, times, attributes. One that is larger is an attack.
_MAX_HEADER = 2**20

_REGULAR = (b"\0", b"0", b"7")
_FOLDER = b"5"
_PAX, _PAX_GLOBAL, _PAX_SOLARIS = b"x", b"g", b"X"
_LONG_NAME, _LONG_LINK = b"L", b"K"
_SPARSE = b"S"
_NO_CONTENT = {
    b"1": "It is a hard link; only regular files are allowed.",
    b"2": "It is a symbolic link; only regular files are allowed.",
    b"3": "It is a device; only regular files are allowed.",
    b"4": "It is a device; only regular files are allowed.",
    b"6": "It is a named pipe; only regular files are allowed.",
}


class TarEntry:
    """A file of a tar archive."""

    def __init__(self, archive: TarArchive, name: str, size: int, problem: str | None) -> None:
        self.name, name_problem = checked_name(name)
        self.size = size
        self.problem = problem or name_problem
        self._archive = archive
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._archive.take(min(size, self._left))
        self._left -= len(data)
        return data

    def skip(self) -> None:
        """Move behind the content and its padding."""
        while self._left:
            self.read(CHUNK)
        self._archive.take(-self.size % _BLOCK)


class TarArchive:
    """A tar archive that is read as a stream."""

    total: int | None = None

    def __init__(self, stream: BinaryIO, archive_bytes: int, limits: Limits) -> None:
        """`stream` gives the bytes of the tar itself; `archive_bytes` is the size of the file it came in."""
        self._stream = stream
        self._budget = Budget(limits, archive_bytes)

    def entries(self) -> Iterator[TarEntry]:
        first = True
        while (entry := self._next(first)) is not None:
            first = False
            kind, made = entry
            if kind != _FOLDER:
                yield made
            made.skip()
        # To the very end, where a compressed stream has its checksum.
        while self._read(CHUNK):
            pass

    def take(self, size: int) -> bytes:
        """Exactly `size` bytes.

        Raises:
            InvalidDataset: there are fewer, or they are over the budget.
        """
        data = self._read(size)
        if len(data) < size:
            raise InvalidDataset("The archive is cut short.")
        return data

    def _next(self, first: bool) -> tuple[bytes, TarEntry] | None:
        """Kind of the next entry and itself; None at the end marker."""
        long_name: str | None = None
        pax: dict[bytes, bytes] = {}
        extended = False
        while True:
            header = self._header(first)
            if header is None:
                if extended:
                    raise InvalidDataset(_damaged("an extended header belongs to no entry"))
                return None
            first = False
            self._budget.count_entry()
            kind, size = header[156:157], _number(header[124:136])
            if size is None:
                raise InvalidDataset(_damaged("a size is no number"))
            if kind not in (_PAX, _PAX_GLOBAL, _PAX_SOLARIS, _LONG_NAME, _LONG_LINK):
                break
            if size > _MAX_HEADER:
                raise InvalidDataset(_damaged(f"it has an extended header of {size:,} bytes"))
            data = self.take(size)
            self.take(-size % _BLOCK)
            # Global headers carry comments in practice; none of what is read here.
            extended = kind != _PAX_GLOBAL
            if kind in (_PAX, _PAX_SOLARIS):
                pax = _pax_records(data)
            elif kind == _LONG_NAME:
                long_name = _text(data)
        name = long_name or _short_name(header)
        if b"path" in pax:
            name = pax[b"path"].decode("utf-8", "surrogateescape")
        if b"size" in pax:
            size = _decimal(pax[b"size"])
        return self._entry(kind, name, size, header, pax)

    def _entry(
        self, kind: bytes, name: str, size: int, header: bytes, pax: dict[bytes, bytes]
    ) -> tuple[bytes, TarEntry]:
        if kind in _REGULAR and name.endswith("/"):
            kind = _FOLDER  # as the first tars wrote them
        problem = _NO_CONTENT.get(kind)
        if problem or kind == _FOLDER:
            size = 0
        elif kind == _SPARSE or any(key.startswith(b"GNU.sparse.") for key in pax):
            problem = "It is a sparse file; only regular files are allowed."
            more = kind == _SPARSE and header[482]
            while more:
                more = self.take(_BLOCK)[504]
        elif kind not in _REGULAR:
            problem = "It is neither a file nor a folder; only regular files are allowed."
        return kind, TarEntry(self, name, size, problem)

    def _header(self, first: bool) -> bytes | None:
        """The next header block, its checksum verified; None at the end marker."""
        block = self._read(_BLOCK)
        if block == _ZEROS:
            return None
        if len(block) == _BLOCK and _number(block[148:156]) == sum(block[:148]) + 8 * 0x20 + sum(block[156:]):
            return block
        if first:
            raise InvalidDataset("The file is no archive that can be read. Allowed: zip, tar, tar.gz and tar.bz2.")
        raise InvalidDataset(_damaged("a header is broken") if block else "The archive is cut short: it has no end.")

    def _read(self, size: int) -> bytes:
        """`size` bytes, or fewer at the end of the stream."""
        try:
            data = self._stream.read(size)
            # Decompressors may give less than asked for before the end.
            while len(data) < size and (more := self._stream.read(size - len(data))):
                data += more
        except (EOFError, zlib.error) as error:
            raise InvalidDataset("The archive is cut short or damaged.") from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise InvalidDataset(_damaged(str(error))) from error
        self._budget.spend(len(data))
        return data


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Records of the form `<length> <key>=<value>\\n`, the length being that of the whole record."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + 10)
        length = _decimal(data[position:space] if space > 0 else b"")
        record = data[space + 1 : position + length]
        key, separator, value = record.partition(b"=")
        if not separator or not value.endswith(b"\n"):
            raise InvalidDataset(_damaged("a pax header is broken"))
        records[key] = value[:-1]
        position += length
    return records


def _short_name(header: bytes) -> str:
    name = _text(header[:100])
    prefix = _text(header[345:500]) if header[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


def _number(field: bytes) -> int | None:
    """A number of a header: octal digits, or GNU's big-endian binary, marked by the first byte; None if neither."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip(b" ")
    if digits.strip(b"01234567"):
        return None
    return int(digits or b"0", 8)


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise InvalidDataset(_damaged("a pax header is broken"))
    return int(digits)


def _damaged(detail: str) -> str:
    return f"The tar archive is damaged: {detail.rstrip('.')}."
