"""Archives of datasets while they are received and unpacked: files that live as long as their request."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from app.errors import InvalidRequest, StorageFailed


def uploads(workspace: Path) -> Path:
    """The folder that holds archives while they are received and unpacked."""
    return workspace / "uploads"


def clean_uploads(workspace: Path) -> None:
    """Remove archives that a process left when it died; those in use are locked by the living."""
    with suppress(FileNotFoundError):
        for path in uploads(workspace).iterdir():
            with suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


@contextmanager
def receiving(folder: Path) -> Iterator[IO[bytes]]:
    """A temporary file there, removed at the end of the block, whatever happens.

    Raises:
        StorageFailed: none can be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", buffering=2**20)  # noqa: SIM115 - closed below
    except OSError as error:
        raise StorageFailed(f"The workspace cannot be written: {error.strerror}.") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield file
    finally:
        # Closing flushes what is left, and a full disk fails there a second time; the file goes anyway.
        with suppress(OSError):
            file.close()


def write(file: IO[bytes], chunk: bytes) -> None:
    """Add a piece.

    Raises:
        StorageFailed.
    """
    try:
        file.write(chunk)
    except OSError as error:
        raise StorageFailed(f"The archive could not be stored: {error.strerror}.") from error


def complete(file: IO[bytes]) -> None:
    """Write out what is still in memory.

    Raises:
        StorageFailed.
        InvalidRequest: nothing came.
    """
    try:
        file.flush()
    except OSError as error:
        raise StorageFailed(f"The archive could not be stored: {error.strerror}.") from error
    if os.fstat(file.fileno()).st_size == 0:
        raise InvalidRequest("There is no archive in the request: send a zip, tar or tar.gz as its body.")
