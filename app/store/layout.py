"""Which label an image has: from the folders of the archive, or from its labels.csv."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from app.errors import InvalidDataset
from app.store.archives.entry import checked_name, printable

EXPECTED = (
    "Expected: one folder a class with its images inside (cat/1.jpg, dog/2.jpg, …), below any common folders; or, in "
    "the top folder, a labels.csv with lines of path,label."
)

# Names of the folders that hold one split each, above the class folders.
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
}
_PATH_HEADERS = ("path", "file", "filename", "image")
_MAX_LABEL = 200

_Parts = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """What an archive says of an image."""

    label: str
    split: str | None = None
    folder: str = ""
    """The class folder, where it is that what gives the label."""


def by_folders(names: Iterable[str]) -> dict[str, Place]:
    """Places of folders (by their path; images in folders that are not in it lie in no class).

    The class is the folder at the level where folders branch. Where that level has nothing but
    train, val and test, these are splits, and the classes branch below.

    Raises:
        InvalidDataset: the folders make fewer than two classes.
    """
    folders = {tuple(path.split("/")) if path else () for path in {name.rpartition("/")[0] for name in names}}
    places = _split_layout(folders)
    if places is None:
        level = len(_common(folders))
        places = {
            folder: Place(folder[level], folder="/".join(folder[: level + 1]))
            for folder in folders
            if len(folder) > level
        }
    labels = {place.label for place in places.values()}
    if not labels:
        lone = "/".join(_common(folders))
        where = f"one folder, {printable(lone)!r}" if lone else "the top folder"
        raise InvalidDataset(f"All usable images lie in {where}: there are no class folders. {EXPECTED}")
    if len(labels) == 1:
        raise InvalidDataset(
            f"There is only one class, {printable(labels.pop())!r}; at least two are needed. {EXPECTED}"
        )
    return {"/".join(folder): place for folder, place in places.items()}


def by_table(text: bytes, table: str) -> dict[str, Place]:
    """Places of images, by their path in the archive, from the CSV file named `table`.

    UTF-8, comma-separated, paths relative to the table; a header line (`path,label`, or more
    columns, of which one may be `split`) is optional.

    Raises:
        InvalidDataset: naming the line that is wrong.
    """
    base = table.rpartition("/")[0]
    places: dict[str, Place] = {}
    try:
        rows = csv.reader(io.StringIO(text.decode("utf-8-sig"), newline=""), strict=True)
        path_column, label_column, split_column, width = 0, 1, None, 2
        for row in rows:
            line = rows.line_num
            if not row:
                continue
            header = [cell.strip().casefold() for cell in row]
            paths = [name for name in _PATH_HEADERS if name in header]
            if not places and "label" in header and paths:
                path_column, label_column, width = header.index(paths[0]), header.index("label"), len(header)
                split_column = header.index("split") if "split" in header else None
                continue
            if len(row) != width:
                raise InvalidDataset(
                    f"Line {line} of {printable(table)} has {len(row)} fields; expected {width}: "
                    f"{'path,label' if width == 2 else 'as in the header'}. Quote fields that have commas in them."
                )
            path, problem = checked_name(row[path_column].strip())
            if problem:
                raise InvalidDataset(f"Line {line} of {printable(table)}: the path cannot be used. {problem}")
            name = f"{base}/{path}" if base else path
            place = Place(_label(row[label_column], line, table), _split(row, split_column, line, table))
            if places.setdefault(name, place) != place:
                raise InvalidDataset(
                    f"Line {line} of {printable(table)} gives {printable(path)!r} a second label, {place.label!r}; it "
                    f"had {places[name].label!r} before."
                )
    except UnicodeDecodeError as error:
        raise InvalidDataset(f"{printable(table)} is not UTF-8 (byte {error.start:,}). Save it as UTF-8.") from error
    except csv.Error as error:
        raise InvalidDataset(f"{printable(table)} is not a valid CSV file: line {rows.line_num}: {error}.") from error
    if not places:
        raise InvalidDataset(f"{printable(table)} is empty. Expected: lines of path,label.")
    return places


def choose_table(tables: Collection[str], names: Iterable[str]) -> str | None:
    """The labels.csv in the archive's top folder or a folder common to all images; None if there is none.

    Raises:
        InvalidDataset: there are several.
    """
    top = _common(tuple(name.split("/")[:-1]) for name in names)
    usable = [table for table in tables if _is_prefix(tuple(table.split("/")[:-1]), top)]
    if len(usable) > 1:
        listed = " and ".join(printable(table) for table in sorted(usable)[:3])
        raise InvalidDataset(f"The archive has {listed}: leave only the one that counts.")
    return usable[0] if usable else None


def named_as_splits(labels: Iterable[str]) -> list[str]:
    """The labels that are names of splits, where there are several: splits that were taken for classes, probably."""
    found = sorted(label for label in labels if label.casefold() in _SPLITS)
    return found if len({_SPLITS[label.casefold()] for label in found}) > 1 else []


def case_twins(labels: Iterable[str]) -> list[list[str]]:
    """Groups of labels that only case and surrounding space tell apart."""
    groups: dict[str, list[str]] = {}
    for label in sorted(labels):
        groups.setdefault(label.strip().casefold(), []).append(label)
    return [group for group in groups.values() if len(group) > 1]


def _split_layout(folders: set[_Parts]) -> dict[_Parts, Place] | None:
    """Places if the folders branch into splits first, else None."""
    # A picture beside the folders, a logo say, tells nothing about them.
    while (common := _common(folders)) in folders:
        folders = folders - {common}
    level = len(common)
    heads = {folder[level] for folder in folders}
    if len(heads) < 2 or any(head.casefold() not in _SPLITS for head in heads):
        return None
    below = {folder: folder[level + 1 :] for folder in folders if len(folder) > level + 1}
    depth = len(_common(below.values()))
    places = {
        folder: Place(rest[depth], _SPLITS[folder[level].casefold()], "/".join(folder[: level + depth + 2]))
        for folder, rest in below.items()
        if len(rest) > depth
    }
    classes: dict[str | None, set[str]] = {}
    for place in places.values():
        classes.setdefault(place.split, set()).add(place.label)
    # Two classes may well be named train and test; splits have classes of their own below.
    return places if any(len(labels) > 1 for labels in classes.values()) else None


def _common(folders: Iterable[_Parts]) -> _Parts:
    """The longest path that all begin with."""
    distinct = set(folders)
    if not distinct:
        return ()
    first, last = min(distinct), max(distinct)
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]


def _is_prefix(folder: _Parts, of: _Parts) -> bool:
    return of[: len(folder)] == folder


def _label(cell: str, line: int, table: str) -> str:
    label = unicodedata.normalize("NFC", cell.strip())
    if not label or len(label) > _MAX_LABEL or any(unicodedata.category(character) == "Cc" for character in label):
        raise InvalidDataset(
            f"Line {line} of {printable(table)}: {printable(label)!r} cannot be a label. Allowed: 1 to {_MAX_LABEL} "
            "characters, none of them a control character."
        )
    return label


def _split(row: list[str], column: int | None, line: int, table: str) -> str | None:
    if column is None or not row[column].strip():
        return None
    split = _SPLITS.get(row[column].strip().casefold())
    if split is None:
        raise InvalidDataset(
            f"Line {line} of {printable(table)}: {printable(row[column])!r} is no split. Allowed: train, validation, "
            "test."
        )
    return split
