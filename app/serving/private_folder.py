"""Folders of the cache: this user's alone, since what is read from them is trusted."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)


def open_private(folder: Path, *, create: bool) -> bool:
    """Whether a folder of the cache is there, and belongs to this user, and no one else may write to it.

    The same must hold for the cache that it is in: who may write there could put another folder in its place.

    `create` makes both, with mode 0700, but nothing above: a command that only looks at models leaves no workspace
    behind. Raises OSError if that cannot be done.
    """
    for each in (folder.parent, folder):
        if create:
            each.mkdir(mode=0o700, exist_ok=True)
        try:
            status = each.lstat()
        except FileNotFoundError:
            return False
        if not _is_private(status):
            _log.warning(
                "The cache %s is not used: it must be a folder of this user's, no link, that no one else may write to "
                "(`chmod go-w`).",
                each,
            )
            return False
    return True


def keeps_files(folder: Path) -> bool:
    """Whether files can be kept in a folder of the cache, which is made if need be."""
    try:
        return open_private(folder, create=True) and os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        return False


def _is_private(status: os.stat_result) -> bool:
    own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    return stat.S_ISDIR(status.st_mode) and own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def replace_file(path: Path, data: bytes) -> None:
    """Write a file so that it appears whole, in place of another or not at all. Raises OSError."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        os.unlink(name)  # noqa: PTH108
        raise
