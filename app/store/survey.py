"""What came out of an archive, put in order: labels for the images, and the report."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from app.errors import InvalidDataset
from app.store.archives.entry import printable
from app.store.dataset_report import LEAST_IMAGES, DatasetReport, ImageSizes, SmallClass, Spread
from app.store.findings import (
    SMALL_CLASS,
    Repeats,
    Repetitions,
    extreme_sizes,
    repetitions,
    small_classes,
    thumbnails_of_classes,
)
from app.store.intake import CheckedImage, Intake
from app.store.layout import EXPECTED, Place, by_folders, by_table, case_twins, choose_table, named_as_splits
from app.store.thumbnails import Thumbnails

_MAX_NAMED = 5


def place(intake: Intake) -> tuple[dict[str, Place], list[str]]:
    """Find the label of each image; what gets none is rejected.

    Returns:
        Places by the images' names, and remarks for the report.

    Raises:
        InvalidDataset: no images, no labels, or fewer than two classes.
    """
    names = [image.name for image in intake.images]
    if not names:
        raise InvalidDataset(f"The archive has no usable image.{_first_rejections(intake)} {EXPECTED}")
    remarks: list[str] = []
    table = choose_table(intake.tables, names)
    try:
        places = _from_table(table, names, intake) if table else _from_folders(names, intake, remarks)
    except InvalidDataset as error:
        raise InvalidDataset(f"{error}{_first_rejections(intake)}") from error
    unused = sorted(intake.tables.keys() - {table})
    remarks.extend(f"{printable(name)} was not used: it is not in the archive's top folder." for name in unused)
    return places, remarks


def survey(
    name: str,
    by: str,
    images: Sequence[CheckedImage],
    places: Mapping[str, Place],
    intake: Intake,
    remarks: Sequence[str],
    repeats: Repeats,
    thumbnails: Thumbnails,
) -> DatasetReport:
    """The report on `images`, which are those with a place, sorted by name; `repeats` has positions in them."""
    classes = Counter(places[image.name].label for image in images)
    splits = Counter(split for image in images if (split := places[image.name].split))
    repeated = repetitions(images, places, repeats, thumbnails)
    extreme_files, extreme = extreme_sizes(images, thumbnails)
    small = small_classes(images, places, thumbnails)
    missing = _missing(classes, images, places)
    twins = case_twins(classes)
    warnings = [
        *_about_splits(classes),
        *_about_classes(classes, small, missing, twins),
        *_about_repetitions(repeated, repeats),
        *([f"Images of an extreme size: {extreme_files:,}. See extreme_sizes."] if extreme_files else []),
    ]
    return DatasetReport(
        name=name,
        created_at=datetime.now(UTC),
        created_by=by,
        fingerprint=_fingerprint(images, places),
        images=len(images),
        bytes=sum(image.bytes for image in images),
        classes=dict(sorted(classes.items())),
        splits=dict(sorted(splits.items())),
        sizes=ImageSizes(
            width=_spread(image.width for image in images), height=_spread(image.height for image in images)
        ),
        formats=dict(Counter(image.format for image in images).most_common()),
        modes=dict(Counter(image.mode for image in images).most_common()),
        grayscale=all(image.grayscale for image in images),
        rejected_files=intake.rejected_files,
        rejected=intake.rejected,
        ignored_files=intake.ignored_files,
        duplicate_files=repeated.duplicate_files,
        duplicates=repeated.duplicates,
        conflicting_duplicates=repeated.conflicting_duplicates,
        near_duplicate_files=repeated.near_duplicate_files,
        near_duplicates=repeated.near_duplicates,
        conflicting_near_duplicates=repeated.conflicting_near_duplicates,
        cross_split_duplicates=repeated.cross_split_duplicates,
        distinct_images=_distinct(images, places),
        small_classes=small,
        missing_in_splits=missing,
        extreme_size_files=extreme_files,
        extreme_sizes=extreme,
        case_twins=twins,
        case_twin_thumbnails=thumbnails_of_classes(
            [label for group in twins for label in group], images, places, thumbnails
        ),
        warnings=[*remarks, *warnings],
    )


def _from_folders(names: Sequence[str], intake: Intake, remarks: list[str]) -> dict[str, Place]:
    folders = by_folders(names)
    places = {name: found for name in names if (found := folders.get(_folder(name)))}
    for name in names:
        if name not in places:
            intake.reject(name, "It lies beside the class folders, not in one of them.")
    if lost := _lost_classes(intake.rejected_folders, folders):
        remarks.append(f"{_named(lost)}: no usable image in there, hence no class. See the rejected files.")
    return places


def _from_table(table: str, names: Sequence[str], intake: Intake) -> dict[str, Place]:
    listed = by_table(intake.tables[table], table)
    places = {name: listed[name] for name in names if name in listed}
    for name in names:
        if name not in listed:
            intake.reject(name, f"{printable(table)} does not name it.")
    for name in listed:
        if name not in intake.names:
            intake.reject(name, f"{printable(table)} names it, but the archive does not have it.")
    labels = {found.label for found in places.values()}
    if not places:
        raise InvalidDataset(f"{printable(table)} names none of the archive's images. Paths are relative to it.")
    if len(labels) == 1:
        raise InvalidDataset(f"There is only one class, {printable(labels.pop())!r}; at least two are needed.")
    return places


def _lost_classes(rejected: Iterable[str], folders: Mapping[str, Place]) -> list[str]:
    """Folders beside the class folders that had files, all of which were rejected."""
    classes = {found.folder for found in folders.values()}
    tops = {_folder(folder) for folder in classes}
    candidates = {path for folder in rejected if folder for path in _ancestors(folder)}
    return sorted(path for path in candidates - classes if _folder(path) in tops)


def _ancestors(folder: str) -> list[str]:
    """`folder` and all that it lies in."""
    parts = folder.split("/")
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _first_rejections(intake: Intake) -> str:
    if not intake.rejected_files:
        return ""
    first = " ".join(f"{rejected.name!r}: {rejected.reason}" for rejected in intake.rejected[:3])
    return f" Rejected files: {intake.rejected_files:,}, the first of them: {first}"


def _fingerprint(images: Sequence[CheckedImage], places: Mapping[str, Place]) -> str:
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.name}\0{places[image.name].label}\0{image.sha256}\n".encode())
    return digest.hexdigest()


def _spread(numbers: Iterable[int]) -> Spread:
    values = list(numbers)
    return Spread(min=min(values), median=statistics.median(values), max=max(values))


def _distinct(images: Sequence[CheckedImage], places: Mapping[str, Place]) -> dict[str, int]:
    contents: dict[str, set[str]] = {}
    for image in images:
        contents.setdefault(places[image.name].label, set()).add(image.sha256)
    return {label: len(different) for label, different in sorted(contents.items())}


def _missing(
    classes: Iterable[str], images: Sequence[CheckedImage], places: Mapping[str, Place]
) -> dict[str, list[str]]:
    """Classes that have no image in a split that the archive has."""
    by_split: dict[str, set[str]] = {}
    for image in images:
        if split := places[image.name].split:
            by_split.setdefault(split, set()).add(places[image.name].label)
    missing = {split: sorted(set(classes) - labels) for split, labels in sorted(by_split.items())}
    return {split: labels for split, labels in missing.items() if labels}


def _about_splits(classes: Iterable[str]) -> Iterable[str]:
    labels = set(classes)
    if named := named_as_splits(labels):
        others = sorted(labels - set(named))
        yield (
            f"The classes are named {_named(named)}. If these were meant as splits: they need class folders below, and "
            "no other folder beside them" + (f"; move {_named(others)} elsewhere." if others else ".")
        )


def _about_classes(
    classes: Mapping[str, int],
    small: Sequence[SmallClass],
    missing: Mapping[str, Sequence[str]],
    twins: Sequence[Sequence[str]],
) -> Iterable[str]:
    if lone := sorted(label for label, count in classes.items() if count < LEAST_IMAGES):
        yield (
            f"Fewer than {LEAST_IMAGES} images in {_named(lone)}: too few to train on. Every class needs one to train "
            "and one to test on."
        )
    if few := [found.label for found in small if found.images >= LEAST_IMAGES]:
        yield (
            f"Hardly any images in {_named(few)}: fewer than {SMALL_CLASS}, or than a hundredth of the median class. "
            "What is measured on so few says little. See small_classes."
        )
    if twins:
        yield f"Labels that only case or space tells apart: {_named([' / '.join(group) for group in twins])}."
    for split, labels in missing.items():
        yield f"The split {split} has no image of {_named(labels)}."


def _about_repetitions(repeated: Repetitions, repeats: Repeats) -> Iterable[str]:
    if repeated.conflicting_duplicates:
        yield (
            f"Images that occur several times under different labels: {repeated.conflicting_duplicates:,}. See "
            "duplicates."
        )
    if repeated.conflicting_near_duplicates:
        yield (
            f"Images that look the same under different labels: {repeated.conflicting_near_duplicates:,}. See "
            "near_duplicates."
        )
    if repeated.cross_split_duplicates:
        yield (
            f"Images that occur, or look the same, in more than one split: {repeated.cross_split_duplicates:,}. "
            "Training moves all of them to one side: test before validation before train."
        )
    if not repeats.look_alikes.complete:
        yield "So many images look similar that not all of them could be compared: there may be more near duplicates."


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(printable(name)) for name in names[:_MAX_NAMED])
    return f"{shown} and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else shown
