"""What came out of an archive, put in order: labels for the images, and the report."""

from __future__ import annotations

import hashlib
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from app.errors import InvalidDataset
from app.store.archives.entry import printable
from app.store.dataset_report import LEAST_IMAGES, DatasetReport, Duplicates, ImageSizes, Spread
from app.store.intake import CheckedImage, Intake
from app.store.layout import EXPECTED, Place, by_folders, by_table, case_twins, choose_table

_MAX_GROUPS = 100
_MAX_COPIES = 100
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
) -> DatasetReport:
    """The report on `images`, which are those with a place, sorted by name."""
    classes = Counter(places[image.name].label for image in images)
    splits = Counter(split for image in images if (split := places[image.name].split))
    repeated = _repeated(images)
    groups = [_duplicates(group, places) for group in repeated]
    conflicting = sum(len(group.labels) > 1 for group in groups)
    twins = case_twins(classes)
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
        duplicate_files=sum(len(group) - 1 for group in repeated),
        duplicates=sorted(groups, key=lambda group: (len(group.labels) < 2, group.name))[:_MAX_GROUPS],
        conflicting_duplicates=conflicting,
        case_twins=twins,
        warnings=[*remarks, *_warnings(classes, images, places, conflicting, twins)],
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


def _repeated(images: Sequence[CheckedImage]) -> list[list[CheckedImage]]:
    groups: dict[str, list[CheckedImage]] = {}
    for image in images:
        groups.setdefault(image.sha256, []).append(image)
    return [group for group in groups.values() if len(group) > 1]


def _duplicates(group: Sequence[CheckedImage], places: Mapping[str, Place]) -> Duplicates:
    return Duplicates(
        name=group[0].name,
        copies=[image.name for image in group[1 : _MAX_COPIES + 1]],
        labels=sorted({places[image.name].label for image in group}),
    )


def _warnings(
    classes: Mapping[str, int],
    images: Sequence[CheckedImage],
    places: Mapping[str, Place],
    conflicting: int,
    twins: Sequence[Sequence[str]],
) -> list[str]:
    warnings = []
    if small := sorted(label for label, count in classes.items() if count < LEAST_IMAGES):
        warnings.append(
            f"Fewer than {LEAST_IMAGES} images in {_named(small)}: too few to train on. Every class needs one each to "
            "train, validate and test on."
        )
    if conflicting:
        warnings.append(f"Images that occur several times under different labels: {conflicting:,}. See duplicates.")
    if twins:
        warnings.append(
            f"Labels that only case or space tells apart: {_named([' / '.join(group) for group in twins])}."
        )
    by_split: dict[str, set[str]] = {}
    for image in images:
        if split := places[image.name].split:
            by_split.setdefault(split, set()).add(places[image.name].label)
    for split, labels in sorted(by_split.items()):
        if missing := sorted(classes.keys() - labels):
            warnings.append(f"The split {split} has no image of {_named(missing)}.")
    return warnings


def _named(names: Sequence[str]) -> str:
    shown = ", ".join(repr(printable(name)) for name in names[:_MAX_NAMED])
    return f"{shown} and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else shown
