"""Decoded images in a file that is mapped into memory: made once, shared by all jobs with the same preprocessing.

<root>/<key>/images.npy   uint8 [n, height, width, channels]
<root>/<key>/meta.json    what it was made of, for people
<root>/<key>.lock         held by the process that makes it, and together by those that use it

The key is a digest of all that the pixels depend on: the images, the preprocessing, and the code and the libraries
that decode. Nothing in the folder is worth keeping: it can be removed while no job runs.

Locks are never removed by themselves: who had just opened one would then hold another than those who come later. They
are empty, and no more than there were datasets with a preprocessing.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import time
import weakref
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
from PIL import features

import app.png
import app.preprocessing
from app.errors import StorageFailed
from app.preprocessing import Preprocessing, UInt8Array
from app.store.storage import LocalStorage
from app.training.sources import Source

IMAGES = "images.npy"
META = "meta.json"

_KEY = re.compile(r"[0-9a-f]{64}")
_LIBRARIES = ("jpg", "jpg_2000", "libtiff", "webp", "zlib")

# Left free on the disk, for checkpoints and uploads: as a share of it before older images are kept, and in bytes
# before new ones are written.
_SPARE_SHARE = 0.1
_SPARE_BYTES = 256 * 2**20
_POLL_SECONDS = 0.2


class DecodedImages:
    """A folder of decoded datasets, of which those that were used last are kept."""

    def __init__(self, root: Path, *, max_bytes: int, check: Callable[[], None], say: Callable[[str], None]) -> None:
        """Look at nothing yet.

        Args:
            root: the folder; it is made when first written to.
            max_bytes: most bytes in it, unless what a job uses now is larger by itself.
            check: called again and again while this waits; what it raises ends the wait.
            say: takes a line for the log.
        """
        self._storage = LocalStorage(root, what="cache of decoded images")
        self._max_bytes = max_bytes
        self._check = check
        self._say = say

    def open(self, source: Source, spec: Preprocessing, decode: Callable[[], Iterable[UInt8Array]]) -> UInt8Array:
        """The images of `source` as `spec` has them: uint8 [n, height, width, channels], mapped read-only.

        If they are not there yet, `decode` gives them in order, in parts. Of several processes that want the same one
        decodes, and the others wait for it. While the array lives no other process removes its file.

        Raises:
            StorageFailed: the disk has no room, or refuses.
        """
        key = cache_key(source, spec)
        shape = (len(source.names), *spec.shape)
        lock = self._open_lock(key)
        try:
            while (images := self._shared(lock, key, shape)) is None:
                self._make(lock, key, source, spec, decode)
        except BaseException:
            os.close(lock)
            raise
        # Closing it lets go of the lock.
        weakref.finalize(images, os.close, lock)
        return images

    def _shared(self, lock: int, key: str, shape: tuple[int, ...]) -> UInt8Array | None:
        """Hold the lock together with others, and map the images; None if they are not there, or not whole."""
        self._wait(lock, fcntl.LOCK_SH)
        images = _mapped(self._storage.local(key) / IMAGES, shape)
        if images is not None:
            with suppress(OSError):
                os.utime(self._storage.local(key))  # the time of the last use
        return images

    def _make(
        self, lock: int, key: str, source: Source, spec: Preprocessing, decode: Callable[[], Iterable[UInt8Array]]
    ) -> None:
        self._wait(lock, fcntl.LOCK_EX)
        folder, shape = self._storage.local(key), (len(source.names), *spec.shape)
        if _mapped(folder / IMAGES, shape) is not None:
            return  # another process was faster
        started = time.monotonic()
        self._storage.clean()
        shutil.rmtree(folder, ignore_errors=True)
        self._make_room(int(np.prod(shape)))
        with self._storage.staging() as staged:
            with (staged / IMAGES).open("xb") as file:
                _write(file, shape, decode())
            (staged / META).write_text(_meta(source, spec), encoding="utf-8")
            if not self._storage.publish(staged, key):
                raise StorageFailed(f"The cache of decoded images has something at {key} that cannot be removed.")
        self._say(f"decoded {shape[0]:,} images in {time.monotonic() - started:.1f} s, and kept them for later jobs")

    def _make_room(self, needed: int) -> None:
        """Remove what was not used for longest until `needed` bytes fit, under the cap and onto the disk.

        Raises:
            StorageFailed: they do not fit onto the disk.
        """
        root = self._storage.root
        kept = {name: _size(root / name / IMAGES) for name in self._storage.folders("") if _KEY.fullmatch(name)}
        for name in sorted(kept, key=lambda name: _used(root / name)):
            disk = shutil.disk_usage(root)
            spare = max(_SPARE_BYTES, int(disk.total * _SPARE_SHARE))
            if sum(kept.values()) + needed <= self._max_bytes and disk.free >= needed + spare:
                return
            if self._remove(name):
                del kept[name]
        if (free := shutil.disk_usage(root).free) < needed + _SPARE_BYTES:
            raise StorageFailed(
                f"The decoded images take {needed / 2**30:.1f} GiB, and {root} has {free / 2**30:.1f} GiB free: free "
                "some space there, or ask for a smaller preprocessing.height and width."
            )

    def _remove(self, key: str) -> bool:
        """Remove a dataset unless a process uses it; whether it did."""
        lock = self._open_lock(key)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(self._storage.local(key))
            return True
        except OSError:
            return False
        finally:
            os.close(lock)

    def _open_lock(self, key: str) -> int:
        root = self._storage.root
        try:
            root.mkdir(parents=True, exist_ok=True)
            return os.open(root / f"{key}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StorageFailed(
                f"The cache of decoded images in {root} cannot be written: {error.strerror or error}."
            ) from error

    def _wait(self, lock: int, kind: int) -> None:
        """Get the lock, however long it takes. What this process holds of it is let go meanwhile."""
        told = False
        while True:
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if not told:
                    self._say("waiting for another job, which decodes the same images")
                told = True
            self._check()
            time.sleep(_POLL_SECONDS)


def cache_key(source: Source, spec: Preprocessing) -> str:
    """A digest of all that the decoded pixels depend on."""
    code = [Path(str(module.__file__)).read_bytes() for module in (app.preprocessing, app.png)]
    parts = {
        "images": source.fingerprint,
        "preprocessing": spec.model_dump(mode="json"),
        "code": [hashlib.sha256(text).hexdigest() for text in code],
        "pillow": PIL.__version__,
        "libraries": [features.version(name) for name in _LIBRARIES],
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _mapped(file: Path, shape: tuple[int, ...]) -> UInt8Array | None:
    try:
        images: UInt8Array = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or cut short
        return None
    return images if images.shape == shape and images.dtype == np.uint8 else None


def _write(file: BinaryIO, shape: tuple[int, ...], parts: Iterable[UInt8Array]) -> None:
    """Write the parts one after another: through a writable map, memory would fill up with pages to be written."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    for part in parts:
        file.write(np.ascontiguousarray(part).data)


def _meta(source: Source, spec: Preprocessing) -> str:
    meta = {
        "dataset": source.name,
        "fingerprint": source.fingerprint,
        "images": len(source.names),
        "preprocessing": spec.model_dump(mode="json"),
        "pillow": PIL.__version__,
    }
    return json.dumps(meta, indent=2) + "\n"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _used(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
