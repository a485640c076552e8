"""Open an archive of any allowed kind, told by its first bytes, whatever its name."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from app.errors import InvalidDataset
from app.store.archives.entry import Archive, Limits
from app.store.archives.tars import TarArchive
from app.store.archives.zips import ZipArchive

_ALLOWED = "Allowed: zip, tar, tar.gz and tar.bz2."
_REFUSED = {
    b"\xfd7zXZ\0": "an xz file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard file",
    b"\x89PNG": "a single image",
    b"\xff\xd8\xff": "a single image",
}


@contextmanager
def open_archive(path: Path, limits: Limits) -> Iterator[Archive]:
    """Open the archive at `path`.

    Raises:
        InvalidDataset: it is no archive, one of a kind that is not allowed, or beyond `limits`.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise InvalidDataset(f"The archive cannot be read: {error.strerror}.") from error
    with file:
        head = file.read(8)
        size = file.seek(0, 2)
        file.seek(0)
        if not head:
            raise InvalidDataset(f"The archive is empty (0 bytes). {_ALLOWED}")
        for signature, what in _REFUSED.items():
            if head.startswith(signature):
                raise InvalidDataset(f"The file is {what}. {_ALLOWED}")
        if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            yield ZipArchive(file, limits)
        elif head.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=file) as stream:
                yield TarArchive(cast(BinaryIO, stream), size, limits)
        elif head.startswith(b"BZh"):
            with bz2.BZ2File(file) as stream:
                yield TarArchive(cast(BinaryIO, stream), size, limits)
        else:
            yield TarArchive(file, size, limits)
