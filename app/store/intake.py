"""From an archive to image files: each is written under a name of our own and really decoded."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from app.cores import available_cores
from app.errors import InvalidDataset, InvalidImage
from app.preprocessing import FORMATS, Preprocessing, UInt8Array, to_array
from app.store.archives.entry import CHUNK, Archive, DamagedEntry, Entry, Limits, printable, too_many
from app.store.dataset_report import Rejected
from app.store.near_duplicates import SIDE, THUMB_SHAPE, Look, look_at

TABLE = "labels.csv"

# One file is read whole to be decoded; this bounds the memory for it.
_MAX_FILE_BYTES = 64 * 2**20
_MAX_TABLE_BYTES = 256 * 2**20
_MAX_LISTED = 1000

# Small, so that large JPEGs are decoded at a reduced scale; damage is found all the same.
_CHECK = Preprocessing(height=SIDE, width=SIDE, color="rgb")

_EXTENSIONS = {
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "WEBP": ".webp",
    "GIF": ".gif",
    "BMP": ".bmp",
    "TIFF": ".tif",
}
_SYSTEM_FILES = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir", "lost+found"})

_ORIENTATION = 0x0112


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image that was decoded. Sizes are in pixels, upright."""

    file: str
    """Its name in the folder it was written to."""
    name: str
    sha256: str
    bytes: int
    width: int
    height: int
    format: str
    mode: str
    grayscale: bool


@dataclass
class Intake:
    """What came out of an archive."""

    names: set[str] = field(default_factory=set)
    """Of all files, but those that were ignored."""
    images: list[CheckedImage] = field(default_factory=list)
    hashes: list[int | None] = field(default_factory=list)
    """What each of them looks like; None: it is flat."""
    tables: dict[str, bytes] = field(default_factory=dict)
    """Content of each labels.csv, by its name in the archive."""
    rejected: list[Rejected] = field(default_factory=list)
    rejected_files: int = 0
    rejected_folders: set[str] = field(default_factory=set)
    """Folders with files that were rejected: a class may have lost all of its images."""
    ignored_files: int = 0

    def reject(self, name: str, reason: str) -> None:
        self.rejected_files += 1
        if len(self.rejected) < _MAX_LISTED:
            self.rejected.append(Rejected(name=printable(name), reason=reason))
        if len(self.rejected_folders) < _MAX_LISTED:
            self.rejected_folders.add(name.rpartition("/")[0])


def take_in(
    archive: Archive,
    folder: Path,
    thumbs: Path,
    limits: Limits,
    *,
    max_pixels: int,
    threads: int,
    progress: Callable[[int, int | None], None] | None = None,
) -> Intake:
    """Write the images of `archive` into `folder`, each checked by decoding it, and a thumbnail of each to `thumbs`.

    Memory: a few images, and some hundred bytes a file for its name and what is known of it.

    Raises:
        InvalidDataset: the archive is damaged, dangerous or over a cap.
    """
    intake = Intake()
    threads = threads or available_cores()
    pending: deque[Future[tuple[CheckedImage, Look] | Rejected]] = deque()
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="dataset-check") as pool, thumbs.open("xb") as looks:
        try:
            for number, entry in enumerate(archive.entries(), 1):
                if progress is not None:
                    progress(number, archive.total)
                if entry.problem is None and _left_by_a_system(entry.name):
                    intake.ignored_files += 1
                    continue
                done += 1
                if done > limits.max_files:
                    raise InvalidDataset(too_many(limits))
                if entry.problem is None and entry.name in intake.names:
                    intake.reject(entry.name, "The archive has this name twice; the first one counts.")
                    continue
                intake.names.add(entry.name)
                try:
                    written = _write(entry, folder / f"{done:06d}", intake)
                except DamagedEntry as error:
                    intake.reject(entry.name, str(error))
                    continue
                if written is not None:
                    pending.append(pool.submit(_check, *written, max_pixels))
                # In order, so that the outcome does not depend on which thread is faster.
                while len(pending) > 4 * threads or (pending and pending[0].done()):
                    _collect(pending.popleft().result(), intake, looks)
            while pending:
                _collect(pending.popleft().result(), intake, looks)
        finally:
            pool.shutdown(cancel_futures=True)
    return intake


def read_thumbs(file: Path) -> UInt8Array:
    """What `take_in` wrote of each image, in their order: uint8 [n, 16, 16, 3], mapped, not read."""
    return np.memmap(file, np.uint8, "r").reshape(-1, *THUMB_SHAPE)


def _left_by_a_system(name: str) -> bool:
    return any(part.startswith(".") or part.casefold() in _SYSTEM_FILES for part in name.split("/"))


def _write(entry: Entry, file: Path, intake: Intake) -> tuple[Path, str, str] | None:
    """Write an entry that may be an image; (file, name, SHA-256), or None if there is nothing to check.

    Raises:
        DamagedEntry.
    """
    if entry.problem is not None:
        intake.reject(entry.name, entry.problem)
        return None
    if entry.name.rpartition("/")[2].casefold() == TABLE:
        intake.tables[entry.name] = _read_table(entry)
        return None
    if entry.size > _MAX_FILE_BYTES:
        intake.reject(entry.name, f"It has {entry.size:,} bytes; at most {_MAX_FILE_BYTES:,} are allowed in one image.")
        return None
    data = entry.read(CHUNK)
    if not data:
        intake.reject(entry.name, "It is empty (0 bytes).")
        return None
    if not _looks_like_an_image(data):
        # Known before anything is written: what is no image costs no disk.
        intake.reject(entry.name, f"Not an image in a supported format. Supported: {', '.join(FORMATS)}.")
        return None
    digest = hashlib.sha256()
    try:
        with file.open("xb") as out:
            while data:
                digest.update(data)
                out.write(data)
                data = entry.read(CHUNK)
    except DamagedEntry:
        file.unlink()
        raise
    return file, entry.name, digest.hexdigest()


def _read_table(entry: Entry) -> bytes:
    if entry.size > _MAX_TABLE_BYTES:
        raise InvalidDataset(
            f"{printable(entry.name)} has {entry.size:,} bytes; at most {_MAX_TABLE_BYTES:,} are allowed."
        )
    try:
        return b"".join(iter(lambda: entry.read(CHUNK), b""))
    except DamagedEntry as error:
        raise InvalidDataset(f"{printable(entry.name)} cannot be read. {error}") from error


def _looks_like_an_image(head: bytes) -> bool:
    """By the signatures of the formats allowed; decoding has the last word."""
    return head.startswith(
        (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
    ) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _check(file: Path, name: str, sha256: str, max_pixels: int) -> tuple[CheckedImage, Look] | Rejected:
    """Decode an image; if that works, give it its extension."""
    data = file.read_bytes()
    try:
        pixels = to_array(data, _CHECK, max_pixels=max_pixels)
    except InvalidImage as error:
        file.unlink()
        return Rejected(name=name, reason=str(error))
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        kind, mode = image.format or "", image.mode
        if _turned(image):
            width, height = height, width
    final = file.with_suffix(_EXTENSIONS[kind])
    file.rename(final)
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    checked = CheckedImage(
        file=final.name,
        name=name,
        sha256=sha256,
        bytes=len(data),
        width=width,
        height=height,
        format=kind,
        mode=mode,
        grayscale=bool((red == green).all() and (green == blue).all()),
    )
    return checked, look_at(pixels)


def _turned(image: Image.Image) -> bool:
    """Whether EXIF says that the image lies on its side."""
    try:
        return image.getexif().get(_ORIENTATION, 1) in (5, 6, 7, 8)
    except Exception:  # metadata that cannot be parsed says nothing
        return False


def _collect(result: tuple[CheckedImage, Look] | Rejected, intake: Intake, looks: BinaryIO) -> None:
    if isinstance(result, Rejected):
        intake.reject(result.name, result.reason)
        return
    image, look = result
    intake.images.append(image)
    intake.hashes.append(look.hash)
    looks.write(look.thumb)
