"""What is odd about a dataset's images: repeated ones, contradictions, sizes, classes with hardly anything in them."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.store.dataset_report import Duplicates, ExtremeSize, NearDuplicates, SmallClass
from app.store.intake import CheckedImage
from app.store.layout import Place
from app.store.near_duplicates import LookAlikes
from app.store.thumbnails import Thumbnails

SMALL_CLASS = 10
"""A class with fewer images counts as small."""
_SMALL_SHARE = 0.01

_MOST_LISTED = 100
_MOST_COPIES = 100
_THUMBNAILS_OF_A_GROUP = 3
_THUMBNAILS_OF_A_CLASS = 2

# A side is extreme below 8 pixels or a twentieth of the median, and above twenty times the median.
_LEAST_SIDE = 8
_FACTOR = 20
_MOST_ASPECT = 8


@dataclass(frozen=True)
class Repeats:
    """Positions of images that repeat each other, in groups of at least two, each ascending.

    `copies`: the same bytes. `look_alikes`: the same look; every group of copies is within one of these.
    """

    copies: list[list[int]]
    look_alikes: LookAlikes


def copies_of(images: Sequence[CheckedImage]) -> list[list[int]]:
    """Groups of positions of images with the same bytes."""
    groups: dict[str, list[int]] = {}
    for position, image in enumerate(images):
        groups.setdefault(image.sha256, []).append(position)
    return [group for group in groups.values() if len(group) > 1]


@dataclass(frozen=True)
class Repetitions:
    """What a report says of repeated images; the fields are those of `DatasetReport`."""

    duplicate_files: int
    duplicates: list[Duplicates]
    conflicting_duplicates: int
    near_duplicate_files: int
    near_duplicates: list[NearDuplicates]
    conflicting_near_duplicates: int
    cross_split_duplicates: int


def repetitions(
    images: Sequence[CheckedImage], places: Mapping[str, Place], repeats: Repeats, thumbnails: Thumbnails
) -> Repetitions:
    """Describe repeated images, and have thumbnails made of those that are listed."""
    near = [group for group in repeats.look_alikes.groups if len({images[position].sha256 for position in group}) > 1]

    def described(groups: list[list[int]]) -> list[tuple[Duplicates, list[int]]]:
        entries = [(_duplicates([images[position] for position in group], places), group) for group in groups]
        return sorted(entries, key=lambda entry: (len(entry[0].labels) < 2, len(entry[0].splits) < 2, entry[0].name))

    copies, look_alikes = described(repeats.copies), described(near)
    listed = [
        NearDuplicates(
            **entry.model_dump(exclude={"thumbnails"}), thumbnails=thumbnails.of_each(_different(images, group))
        )
        for entry, group in look_alikes[:_MOST_LISTED]
    ]
    return Repetitions(
        duplicate_files=sum(len(group) - 1 for group in repeats.copies),
        duplicates=[
            entry.model_copy(update={"thumbnails": thumbnails.of_each([images[group[0]]])})
            for entry, group in copies[:_MOST_LISTED]
        ],
        conflicting_duplicates=sum(len(entry.labels) > 1 for entry, _ in copies),
        near_duplicate_files=sum(len({images[position].sha256 for position in group}) - 1 for group in near),
        near_duplicates=listed,
        conflicting_near_duplicates=sum(len(entry.labels) > 1 for entry, _ in look_alikes),
        cross_split_duplicates=sum(
            len({places[images[position].name].split or "train" for position in group}) > 1
            for group in repeats.look_alikes.groups
        ),
    )


def small_classes(
    images: Sequence[CheckedImage], places: Mapping[str, Place], thumbnails: Thumbnails
) -> list[SmallClass]:
    """Classes with too few images to learn much of, the smallest first."""
    counts = Counter(places[image.name].label for image in images)
    limit = max(SMALL_CLASS, statistics.median(counts.values()) * _SMALL_SHARE)
    small = sorted((count, label) for label, count in counts.items() if count < limit)
    shown = thumbnails_of_classes([label for _, label in small], images, places, thumbnails)
    return [SmallClass(label=label, images=count, thumbnails=shown.get(label, [])) for count, label in small]


def thumbnails_of_classes(
    labels: Sequence[str], images: Sequence[CheckedImage], places: Mapping[str, Place], thumbnails: Thumbnails
) -> dict[str, list[str]]:
    """Names of thumbnails of the first images of each of the classes `labels`; of the first hundred classes."""
    first: dict[str, list[CheckedImage]] = {label: [] for label in labels[:_MOST_LISTED]}
    for image in images:
        shown = first.get(places[image.name].label)
        if shown is not None and len(shown) < _THUMBNAILS_OF_A_CLASS:
            shown.append(image)
    return {label: thumbnails.of_each(shown) for label, shown in first.items()}


def extreme_sizes(images: Sequence[CheckedImage], thumbnails: Thumbnails) -> tuple[int, list[ExtremeSize]]:
    """How many images have a size far from that of the others, and the first of them."""
    width = statistics.median(image.width for image in images)
    height = statistics.median(image.height for image in images)
    aspect = statistics.median(max(image.width / image.height, image.height / image.width) for image in images)
    found = [(image, reason) for image in images if (reason := _extreme(image, width, height, aspect))]
    listed = [
        ExtremeSize(
            name=image.name,
            width=image.width,
            height=image.height,
            reason=reason,
            thumbnail=thumbnails.of(image),
        )
        for image, reason in found[:_MOST_LISTED]
    ]
    return len(found), listed


def _extreme(image: CheckedImage, width: float, height: float, aspect: float) -> str | None:
    """What is extreme about the size of `image`, beside the median width, height and aspect ratio of all."""
    narrow = max(image.width / image.height, image.height / image.width)
    for side, median, what in ((image.width, width, "width"), (image.height, height, "height")):
        # A set of icons of six pixels is small as a whole; none of its images stands out.
        if side < max(median / _FACTOR, min(_LEAST_SIDE, median / 2)):
            return f"Its {what} of {side:,} pixels is very small; the median is {median:,g}."
        if side > median * _FACTOR:
            return f"Its {what} of {side:,} pixels is very large; the median is {median:,g}."
    if narrow > max(_MOST_ASPECT, 2 * aspect):
        return f"One side is {narrow:,.0f} times the other."
    return None


def _duplicates(group: Sequence[CheckedImage], places: Mapping[str, Place]) -> Duplicates:
    return Duplicates(
        name=group[0].name,
        copies=[image.name for image in group[1 : _MOST_COPIES + 1]],
        labels=sorted({places[image.name].label for image in group}),
        splits=sorted({split for image in group if (split := places[image.name].split)}),
    )


def _different(images: Sequence[CheckedImage], group: Sequence[int]) -> list[CheckedImage]:
    """The first few of a group that are not copies of each other."""
    contents: dict[str, CheckedImage] = {}
    for position in group:
        contents.setdefault(images[position].sha256, images[position])
    return list(contents.values())[:_THUMBNAILS_OF_A_GROUP]
