"""Compiled models on disk, so that a version which was loaded before is ready in a third of the time.

A compiled model is trusted as a program is: the files are read from a folder only that belongs to this user and that
no other may write to. Nothing here fails: without the folder, models are compiled.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from app.serving.private_folder import keeps_files, open_private, replace_file
from app.store.manifest import Manifest

# Kept at most: of the versions that were loaded last.
MAX_FILES = 32
MAX_BYTES = 2**30

_DIGEST = 32

_log = logging.getLogger(__name__)


class CompiledModels:
    """Files `<key>.blob`: the SHA-256 of what follows, then what the engine exported."""

    def __init__(self, folder: Path) -> None:
        """The folder is made when it is needed."""
        self._folder = folder

    @staticmethod
    def key(manifest: Manifest, **facts: str | int | Mapping[str, object]) -> str:
        """Name of a version compiled under such circumstances: engine, processor, properties."""
        content = json.dumps([manifest.model_dump(mode="json"), facts], sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:32]

    def usable(self) -> bool:
        """Whether what is stored is found again, by this process and by others of this user's."""
        return keeps_files(self._folder)

    def has(self, key: str) -> bool:
        """Whether it is there; `load` may still find it damaged."""
        try:
            return open_private(self._folder, create=False) and (self._folder / f"{key}.blob").is_file()
        except OSError:
            return False

    def load(self, key: str) -> bytes | None:
        """What was stored, or None if it is not there, or not as it was."""
        path = self._folder / f"{key}.blob"
        try:
            if not open_private(self._folder, create=False):
                return None
            data = path.read_bytes()
        except OSError:
            return None
        with suppress(OSError):  # a folder that may only be read is good for that
            os.utime(path)
        blob = data[_DIGEST:]
        if hashlib.sha256(blob).digest() != data[:_DIGEST]:
            _log.warning("%s is damaged: the model is compiled again.", path)
            self.remove(key)
            return None
        return blob

    def store(self, key: str, blob: bytes) -> None:
        """Keep it, in place of those that were not used for longest."""
        try:
            if open_private(self._folder, create=True):
                replace_file(self._folder / f"{key}.blob", hashlib.sha256(blob).digest() + blob)
                self._prune()
        except OSError as error:
            _log.info("The compiled model is not kept: %s", error)

    def remove(self, key: str) -> None:
        with suppress(OSError):
            (self._folder / f"{key}.blob").unlink()

    def _prune(self) -> None:
        files = []
        for path in self._folder.glob("*.blob"):
            with suppress(OSError):  # another process may have removed it
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total = 0
        for number, (_, size, path) in enumerate(sorted(files, reverse=True), 1):
            total += size
            # The newest stays, however large.
            if number > 1 and (number > MAX_FILES or total > MAX_BYTES):
                with suppress(OSError):
                    path.unlink()
