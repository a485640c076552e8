"""Folders of the cache: this user's alone, since what is read from them is trusted."""

from __future__ import annotations

import logging
import os
import stat
import tempfile
from pathlib import Path

_log = logging.getLogger(__name__)


def open_private(folder: Path, *, create: bool) -> bool:
    """Whether a folder is there that belongs to this user, and that no one else may write to.

    `create` makes it, with mode 0700, and its parent, but nothing above: a command that only looks at models leaves no
    workspace behind. Raises OSError if that cannot be done.
    """
    if create:
        folder.parent.mkdir(exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
    if stat.S_ISDIR(status.st_mode) and own and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return True
    _log.warning("The cache %s is not used: it must be a folder of this user's that no one else may write to.", folder)
    return False


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
