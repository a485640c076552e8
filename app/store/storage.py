"""Where things are kept: the few operations that the store needs, and the one on a local directory.

`Storage` is the seam for buckets: create-if-absent, publish-whole and list are what object stores
offer too. Keys are relative paths of checked names; no key leads out of the root.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Protocol

from app.errors import InvalidName, StorageFailed

STAGING = ".staging"

_log = logging.getLogger(__name__)

# Above this many files, one sync of the whole system is cheaper than one of each file.
_MANY_FILES = 1000

_PART = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")
_TAKEN = frozenset({errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR})
_REASONS = {
    errno.ENOSPC: "its disk is full; free some space and try again",
    errno.EDQUOT: "its disk quota is used up; free some space and try again",
    errno.EROFS: "its file system is read-only; mount it writable, or do this where it is",
    errno.EACCES: "this process may not write there; give its user the permission",
    errno.EPERM: "its file system does not permit it; it must support hard links and renames",
    errno.EOPNOTSUPP: "its file system does not support it; it must support hard links, locks and renames",
    errno.EIO: "its disk reports an input/output error",
}
# Of the errors inside of a staging block, those that can only be the disk's fault.
_DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})


class Storage(Protocol):
    """What the registry asks of a place to keep things. Every method may raise StorageFailed."""

    def staging(self) -> AbstractContextManager[Path]:
        """A fresh local folder to be filled; what is left of it at the end of the block is removed."""
        ...

    def publish(self, staged: Path, key: str) -> bool:
        """Make a folder from `staging` appear as `key`, durably, and whole or not at all.

        Returns False, and changes nothing, if something is there already.
        """
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Create the file `key` with `data`, durably, and whole or not at all; False if there is one already."""
        ...

    def read(self, key: str) -> bytes | None:
        """Content of the file `key`; None if there is none."""
        ...

    def folders(self, key: str) -> list[str]:
        """Names of the folders in folder `key` ("" is the root); empty if it does not exist."""
        ...

    def files(self, key: str) -> list[str]:
        """Names of the regular files in folder `key`; empty if it does not exist."""
        ...

    def local(self, key: str) -> Path:
        """A local path with what is kept under `key`."""
        ...

    def remove(self, key: str) -> bool:
        """Make the folder `key` disappear, whole; False if there is none."""
        ...

    def clean(self) -> int:
        """Remove what processes that died left in staging; returns how many folders that were."""
        ...


class LocalStorage:
    """Storage in a directory. It is made when first written to; reading one that is not there finds nothing.

    Staging folders lie under `.staging/`, each beside a file `<name>.lock` that its process holds
    locked. The kernel drops the lock when the process dies, however it dies, and `clean` knows.
    """

    def __init__(self, root: Path, *, what: str = "storage") -> None:
        """`what` names the place in error messages: "model store"."""
        self.root = root
        self._what = what

    @contextmanager
    def staging(self) -> Iterator[Path]:
        with self._translated("written"):
            folder, lock, descriptor = self._claim()
        try:
            yield folder
        except OSError as error:
            if error.errno in _DISK_ERRORS:
                raise self._failed("written", error) from error
            raise
        finally:
            try:
                _remove_staged(folder, lock)
            finally:
                os.close(descriptor)

    def publish(self, staged: Path, key: str) -> bool:
        if staged.parent != self.root / STAGING:
            raise ValueError(f"{staged} was not made by staging(): it could not be renamed into place atomically")
        with self._translated("written"):
            target = self._path(key)
            _sync_tree(staged)
            _make_folder(target.parent)
            try:
                # On POSIX this fails if the target is a folder with anything in it, which makes it
                # create-if-absent: what is published is never empty.
                staged.rename(target)
            except OSError as error:
                if error.errno in _TAKEN:
                    return False
                raise
            sync_folder(target.parent)
            return True

    def create(self, key: str, data: bytes) -> bool:
        target = self._path(key)
        with self._translated("written"), self.staging() as folder:
            whole = folder / "file"
            with whole.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            _make_folder(target.parent)
            try:
                # A link, unlike a rename, never replaces; and the name appears with its whole content.
                os.link(whole, target)
            except FileExistsError:
                return False
            sync_folder(target.parent)
            return True

    def read(self, key: str) -> bytes | None:
        with self._translated("read"):
            try:
                return self._path(key).read_bytes()
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None

    def folders(self, key: str) -> list[str]:
        return [entry.name for entry in self._scan(key) if entry.is_dir(follow_symlinks=False)]

    def files(self, key: str) -> list[str]:
        return [entry.name for entry in self._scan(key) if entry.is_file(follow_symlinks=False)]

    def local(self, key: str) -> Path:
        return self._path(key)

    def remove(self, key: str) -> bool:
        with self._translated("written"), self.staging() as folder:
            try:
                self._path(key).rename(folder / "removed")
            except FileNotFoundError:
                return False
            return True

    def clean(self) -> int:
        removed = 0
        for lock in sorted((self.root / STAGING).glob("*.lock")):
            try:
                removed += _remove_if_dead(lock)
            except FileNotFoundError:
                continue  # its process ended by itself meanwhile
            except OSError as error:
                # Debris does no harm but take space; a read-only store must still be served.
                _log.warning("could not remove what a dead process left in staging: %s", error)
        return removed

    def _claim(self) -> tuple[Path, Path, int]:
        """Make a staging folder and hold its lock: (folder, lock file, descriptor)."""
        parent = self.root / STAGING
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            folder = parent / uuid.uuid4().hex
            lock = folder.with_suffix(".lock")
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A cleaner may have come between open and flock, and have unlinked the file.
                if os.stat(lock).st_ino == os.fstat(descriptor).st_ino:  # noqa: PTH116
                    folder.mkdir()
                    return folder, lock, descriptor
            except (BlockingIOError, FileNotFoundError):
                pass
            except BaseException:
                os.close(descriptor)
                with suppress(OSError):
                    lock.unlink()
                raise
            os.close(descriptor)

    def _scan(self, key: str) -> list[os.DirEntry[str]]:
        with self._translated("read"):
            try:
                with os.scandir(self._path(key)) as entries:
                    return list(entries)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def _path(self, key: str) -> Path:
        """The path of `key`. Callers check names; this is the second lock on the same door."""
        path = self.root
        for part in key.split("/") if key else []:
            if _PART.fullmatch(part) is None:
                raise InvalidName(f"{part[:80]!r} cannot be part of a path in the {self._what}.")
            path = path / part
        return path

    @contextmanager
    def _translated(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._failed(verb, error) from error

    def _failed(self, verb: str, error: OSError) -> StorageFailed:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        return StorageFailed(f"The {self._what} cannot be {verb}: {reason}.")


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk: what was made or renamed there then survives a crash of the machine.

    Raises:
        OSError: the disk refused.
    """
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _remove_if_dead(lock: Path) -> bool:
    """Remove the staging folder of `lock` unless a living process holds it; whether it did."""
    # Writable, because network file systems want that for an exclusive lock.
    descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove_staged(lock.with_suffix(""), lock)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)


def _remove_staged(folder: Path, lock: Path) -> None:
    """Folder first, lock last: whatever is left if this is cut short, `clean` still finds."""
    with suppress(FileNotFoundError):
        shutil.rmtree(folder)
    lock.unlink(missing_ok=True)


def _make_folder(folder: Path) -> None:
    """mkdir -p, durably."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    with suppress(FileExistsError):
        folder.mkdir()
    sync_folder(folder.parent)


def _sync_tree(folder: Path) -> None:
    """Flush the files and folders in `folder`, and itself, to the disk."""
    folders: list[Path] = []
    files: list[Path] = []
    for path, _, names in os.walk(folder):
        folders.append(Path(path))
        files.extend(Path(path) / name for name in names)
    if len(files) > _MANY_FILES:
        os.sync()
        return
    for file in files:
        _sync(file, os.O_RDONLY | os.O_NOFOLLOW)
    for inner in reversed(folders):
        sync_folder(inner)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
