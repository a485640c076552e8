"""Progress on the terminal, where it is asked for, and the archive of a folder that is to be uploaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Literal

from app.counting import Count, counting
from app.errors import InvalidRequest
from app.packing import pack


def bar(
    show: bool, what: str, unit: Literal["files", "bytes"], then: str | None = None
) -> AbstractContextManager[Count]:
    """A progress bar, or nothing; it yields what is to be told how much is done. The bar takes the package rich."""
    return counting(what, unit, then) if show else nullcontext(_silent)


@contextmanager
def archived(path: Path, show: bool) -> Iterator[Path]:
    """An archive of `path`: itself, or for a folder a tar of its files, removed at the end of the block.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: it is an empty folder.
    """
    if path.is_file():
        yield path
        return
    if not path.is_dir():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    with tempfile.TemporaryDirectory(prefix="fovea-upload-") as folder:
        target = Path(folder) / "upload.tar"
        try:
            with bar(show, "Packing", "files") as count:
                pack(path, target, count)
        except InvalidRequest as error:
            raise ValueError(str(error)) from error
        yield target


def _silent(done: int, total: int | None) -> None:
    """Nobody looks."""
