"""A folder of labelled images made one tar, to be sent or unpacked elsewhere."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

from app.errors import InvalidRequest


def pack(folder: Path, target: Path, count: Callable[[int, int | None], None]) -> None:
    """Write the files of a folder to `target`; `count` is told how many there are so far, and None for of how many.

    Links are the user's own, and followed; what begins with a dot is left out.

    Raises:
        InvalidRequest: the folder holds no files.
        OSError.
    """
    files = 0
    # Images are compressed already: a plain tar.
    with tarfile.open(target, "w", dereference=True) as archive:
        for parent, folders, names in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                file = Path(parent) / name
                if name.startswith(".") or not file.is_file():
                    continue
                archive.add(file, arcname=str(file.relative_to(folder)), recursive=False)
                files += 1
                count(files, None)
    if files == 0:
        raise InvalidRequest(f"The folder {str(folder)!r} holds no files.")
