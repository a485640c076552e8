"""What the user names as a dataset, a folder or an archive, made one archive file with a name for it."""

from __future__ import annotations

import fcntl
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.counting import counting
from app.errors import InvalidRequest
from app.packing import pack

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
def packed(path: Path, folder: Path) -> Iterator[Path]:
    """An archive of `path`: itself, or for a folder a tar of its files, removed at the end of the block.

    Args:
        path: a folder or an archive.
        folder: where the tar is made.

    Raises:
        InvalidRequest: there is nothing at `path`, or it is an empty folder.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise InvalidRequest(f"There is no file or folder {str(path)!r}.")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-", suffix=".tar") as file:
        # A server that starts clears this folder of what nobody holds locked.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with counting("Packing", "files") as progress:
            pack(path, Path(file.name), progress)
        yield Path(file.name)
