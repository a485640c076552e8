"""What the user names as a dataset, a folder or an archive, made one archive file with a name for it."""

from __future__ import annotations

import fcntl
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.commands.counting import counting
from app.errors import InvalidRequest

_ENDINGS = re.compile(r"\.(zip|tar|tgz|tbz2?|tar\.gz|tar\.bz2)$", re.IGNORECASE)
_OTHER = re.compile(r"[^a-z0-9_-]+")


def dataset_name(path: Path) -> str:
    """A valid name made of the path's last part: `Holiday Photos.tar.gz` becomes `holiday-photos`.

    Raises:
        InvalidRequest: nothing of it can stand in a name.
    """
    name = _OTHER.sub("-", _ENDINGS.sub("", path.resolve().name).lower()).strip("-_")[:63]
    if not name:
        raise InvalidRequest(f"No dataset name can be made of {path.name!r}; give one with --name.")
    return name


@contextmanager
def packed(path: Path, folder: Path | None) -> Iterator[Path]:
    """An archive of `path`: itself, or for a folder a tar of its files, removed at the end of the block.

    Args:
        path: a folder or an archive.
        folder: where the tar is made; None for the system's temporary folder.

    Raises:
        InvalidRequest: there is nothing at `path`, or it is an empty folder.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise InvalidRequest(f"There is no file or folder {str(path)!r}.")
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", suffix=".tar") as file:
        # A server that starts clears this folder of what nobody holds locked.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _pack(path, Path(file.name))
        yield Path(file.name)


def _pack(folder: Path, target: Path) -> None:
    count = 0
    # Images are compressed already: a plain tar. Links are the user's own, and followed.
    with counting("Packing", "files") as progress, tarfile.open(target, "w", dereference=True) as archive:
        for parent, folders, files in os.walk(folder, followlinks=True):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                file = Path(parent) / name
                if name.startswith(".") or not file.is_file():
                    continue
                archive.add(file, arcname=str(file.relative_to(folder)), recursive=False)
                count += 1
                progress(count, None)
    if count == 0:
        raise InvalidRequest(f"The folder {str(folder)!r} holds no files.")
