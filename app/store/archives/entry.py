"""What archives of every kind give out: entries with safe names, under caps."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from app.errors import InvalidDataset

CHUNK = 256 * 1024

# An archive may unpack to this many times its size, and then some, so that small archives of
# plain pictures pass. Deflate reaches 1,000 on zeros; photos 1, drawings some 50.
_MAX_RATIO = 200
_RATIO_SLACK = 16 * 2**20

_MAX_NAME = 1024


@dataclass(frozen=True)
class Limits:
    """Caps on one archive."""

    max_bytes: int
    """Bytes when unpacked."""
    max_files: int


class DamagedEntry(Exception):
    """One entry cannot be read, but those after it can."""


class Entry(Protocol):
    """A file in an archive. Its content can be read until the next entry is asked for."""

    name: str
    """Printable; for entries without a problem a relative path in NFC, parts separated by single slashes."""
    size: int
    """Bytes when unpacked, as the archive claims."""
    problem: str | None
    """Why its content is not to be had: a sentence."""

    def read(self, size: int) -> bytes:
        """At most `size` bytes more; empty at the end.

        Raises:
            DamagedEntry, InvalidDataset.
        """
        ...


class Archive(Protocol):
    """An open archive."""

    total: int | None
    """Number of entries, where the format tells before reading all."""

    def entries(self) -> Iterator[Entry]:
        """Its files (folders are passed over), in their order.

        Raises:
            InvalidDataset: it is damaged, dangerous or over a cap.
        """
        ...


class Budget:
    """Counts what comes out of an archive, and stops it at the caps."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self._limits = limits
        self._by_ratio = _RATIO_SLACK + _MAX_RATIO * archive_bytes
        self._bytes_left = min(limits.max_bytes, self._by_ratio)
        # Folders, and the shadow that macOS adds to each file, are no files of the dataset, but
        # have to be bounded as well.
        self._entries_left = 2 * limits.max_files + 1000

    def spend(self, size: int) -> None:
        """Account for `size` unpacked bytes.

        Raises:
            InvalidDataset: that is more than allowed.
        """
        self._bytes_left -= size
        if self._bytes_left >= 0:
            return
        if self._by_ratio < self._limits.max_bytes:
            raise InvalidDataset(
                f"The archive unpacks to more than {_MAX_RATIO} times its size, which pictures do not: refused as a "
                "decompression bomb."
            )
        raise InvalidDataset(f"The archive unpacks to more than the {self._limits.max_bytes:,} bytes that are allowed.")

    def expect(self, size: int) -> None:
        """Like `spend`, but only ask: for archives that tell their size beforehand."""
        before = self._bytes_left
        self.spend(size)
        self._bytes_left = before

    def count_entry(self) -> None:
        """Account for one entry of any kind.

        Raises:
            InvalidDataset: that is more than allowed.
        """
        self._entries_left -= 1
        if self._entries_left < 0:
            raise InvalidDataset(too_many(self._limits))


def too_many(limits: Limits) -> str:
    return f"The archive has more than the {limits.max_files:,} files that are allowed."


def checked_name(raw: str) -> tuple[str, str | None]:
    """Bring an entry's name into its one form; returns it and what is wrong with it, if anything.

    No name is ever used as a path. A name that leads out of the archive tells of an attack all the same.

    Raises:
        InvalidDataset: it is absolute or has a `..` in it.
    """
    shown = printable(raw)
    # Some Windows programs write backslashes where the formats want slashes.
    parts = raw.replace("\\", "/").split("/")
    if ".." in parts or (not parts[0] and len(parts) > 1) or (len(parts[0]) == 2 and parts[0][1] == ":"):
        raise InvalidDataset(
            f"The archive's entry {shown!r} leads out of the archive. Names must be relative, without '..'; the "
            "whole archive is refused."
        )
    if len(raw) > _MAX_NAME:
        return shown, f"Its name has {len(raw):,} characters; at most {_MAX_NAME:,} are allowed."
    if any(unicodedata.category(character) == "Cs" for character in raw):
        return shown, "Its name is not UTF-8."
    if any(unicodedata.category(character) == "Cc" for character in raw):
        return shown, "Its name has control characters."
    # macOS decomposes accents, others compose them; a label is the same either way.
    name = unicodedata.normalize("NFC", "/".join(part for part in parts if part not in ("", ".")))
    return (name, None) if name else (shown, "It has no name.")


def printable(text: str) -> str:
    """Cut and escaped, so that any name can stand in a message, a log line and JSON."""
    cut = text if len(text) <= 200 else text[:200] + "…"
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in cut
    )
