"""Which images train, which validate, and which are held out to test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.errors import TrainingFailed
from app.jobs.spec import Splits
from app.store.dataset_report import LEAST_IMAGES
from app.training.recipes import choose_splits
from app.training.sources import Source
from app.training.wording import counted

Indices = npt.NDArray[np.int64]

_SIDES = ("train", "validation", "test")

# Look-alikes that are more than this share of a class, and more than so many, are the look of the class itself (icons,
# scans, cells), not copies of one picture.
_MOST_OF_A_CLASS = 0.3
_MANY = 20
_MOST_NAMED = 5

# By how much of what was asked for a side may be off before the log says why.
_MISSED_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """Positions in a source: sorted, disjoint, and all of them.

    One exception: where every class has so few images that none are left to validate on, `validation` is `train`.
    """

    train: Indices
    validation: Indices
    test: Indices
    remarks: tuple[str, ...] = ()
    """What was done beyond sharing out, in sentences for the job's progress."""
    warnings: tuple[str, ...] = ()
    """Those of the remarks that a reader of the result must know."""
    repeated: int = 0
    """Images that were kept on one side with copies of theirs, or with look-alikes."""
    groups: int = 0
    """The groups that these are in."""


@dataclass(frozen=True)
class _Shared:
    """One way to share out. `sides`: the side of each position, as an index of `_SIDES`."""

    sides: npt.NDArray[np.int8]
    moved: int
    """Images that the dataset's own folders have on another side."""
    contradictory: int
    """Images of the dataset's own test split, or drawn into it by these, that occur under several labels."""
    wanted: dict[str, int]
    """Images that the sides which are drawn were to get: `test`, `validation`."""
    poor: set[int]
    """Classes with less than half of the test images that were wanted, or that lost much of their training folder."""


def split(source: Source, splits: Splits, seed: int, *, look_alikes: bool = True) -> Split:
    """Share out each class on its own, with at least one image of it to train and one to test, by the seed.

    What the dataset's own folders call test or validation is that; only a side that they do not name is drawn from
    the rest. Copies of one file stay together, and so do `look_alikes`, over all classes: no test image was trained
    on. Where the dataset's own folders have some of them on several sides, all of them go to test, or else to
    validation, also under several labels: what somebody has set aside to test on is not trained on. Of what is drawn,
    those under several labels train, as far as there are others to test on.

    Raises:
        TrainingFailed: a class has too few images.
    """
    for number, label in enumerate(source.labels):
        if (count := int((source.targets == number).sum())) < LEAST_IMAGES:
            raise TrainingFailed(
                f"Class {label!r} has {count} usable image{'' if count == 1 else 's'}; at least {LEAST_IMAGES} are "
                "needed: one to train and one to test. Add images, or leave the class out."
            )
    numbers = _look_alikes(source) if look_alikes else [None] * len(source.names)
    apart = _too_common(source, numbers)
    together = _together(source, numbers, apart)
    shared = _share_out(source, together, splits, seed)
    # Better a test image that looks like a training one than a class that cannot be tested.
    if poor := {*_incomplete(source, shared), *shared.poor}:
        pairs = zip(numbers, source.targets.tolist(), strict=True)
        more = {number for number, target in pairs if number is not None and target in poor}
        if more - apart:
            apart |= more
            together = _together(source, numbers, apart)
            shared = _share_out(source, together, splits, seed)
    for number, missing in _incomplete(source, shared).items():
        raise TrainingFailed(
            f"Class {source.labels[number]!r} has no image left for the {missing} split: its files are copies of each "
            "other or of files elsewhere, or the dataset's own folders hold none of it there. Add different images, or "
            "leave the class out."
        )
    several = [len(group) for group in together if len(group) > 1]
    return _finished(source, shared, numbers, apart, several)


def _finished(
    source: Source, shared: _Shared, numbers: Sequence[int | None], apart: Collection[int], several: Sequence[int]
) -> Split:
    """`several`: sizes of the groups that have more than one image."""
    remarks, warnings = list[str](), list[str]()
    if apart:
        of = {target for number, target in zip(numbers, source.targets.tolist(), strict=True) if number in apart}
        remarks.append(
            f"Too many images of {_named(source, of)} look alike to be kept on one side: only copies of one file are."
        )
    if shared.moved:
        remarks.append(
            f"{counted(shared.moved, 'image')} moved to the split that has a copy, or an image that looks the same."
        )
    if shared.contradictory:
        remarks.append(
            f"{counted(shared.contradictory, 'image')} to test on show what occurs under another label, too, so that "
            "no answer can be right on all of them: the dataset's own test folder is kept as it is."
        )
    remarks += _missed(shared, several)
    train, validation, test = (np.flatnonzero(shared.sides == side).astype(np.int64) for side in range(3))
    if len(validation) == 0:
        validation = train
        warnings.append("No image is left to validate on: those that train validate too, which says little.")
    elif bare := set(range(len(source.labels))) - set(source.targets[validation].tolist()):
        warnings.append(f"No image of {_named(source, bare)} is left to validate on.")
    return Split(train, validation, test, (*remarks, *warnings), tuple(warnings), sum(several), len(several))


def _missed(shared: _Shared, several: Sequence[int]) -> list[str]:
    """What to say where sides came out of another size than was asked for, because groups are not parted."""
    counts = np.bincount(shared.sides, minlength=len(_SIDES)).tolist()
    verbs = {"validation": "validate", "test": "test"}
    found = {name: counts[_SIDES.index(name)] for name in shared.wanted}
    missed = [
        f"{found[name]:,} to {verbs[name]} rather than {count:,}"
        for name, count in shared.wanted.items()
        if abs(found[name] - count) > _MISSED_SHARE * count + 1
    ]
    if not several or not missed:
        return []
    return [
        f"Images that repeat each other stay on one side, {sum(several):,} of them in {counted(len(several), 'group')} "
        f"of copies or look-alikes: so there are {' and '.join(missed)}."
    ]


def _look_alikes(source: Source) -> list[int | None]:
    """For each position the number of its group of look-alikes, those aside that are just copies of one file."""
    contents: dict[int, set[str]] = {}
    groups = source.groups or [None] * len(source.names)
    for number, content in zip(groups, source.contents, strict=True):
        if number is not None:
            contents.setdefault(number, set()).add(content)
    return [number if number is not None and len(contents[number]) > 1 else None for number in groups]


def _too_common(source: Source, numbers: Sequence[int | None]) -> set[int]:
    """Groups of look-alikes that make up much of a class."""
    sizes = np.bincount(source.targets, minlength=len(source.labels))
    pairs = zip(numbers, source.targets.tolist(), strict=True)
    counts = Counter((number, target) for number, target in pairs if number is not None)
    return {
        number
        for (number, target), count in counts.items()
        if count > _MANY and count > _MOST_OF_A_CLASS * sizes[target]
    }


def _together(source: Source, numbers: Sequence[int | None], apart: Collection[int]) -> list[Indices]:
    """The positions in groups that stay together, each ascending, by their first ones: look-alikes, or else copies."""
    groups: dict[int | str, list[int]] = {}
    for position, number in enumerate(numbers):
        key = source.contents[position] if number is None or number in apart else number
        groups.setdefault(key, []).append(position)
    return [np.array(positions, np.int64) for positions in groups.values()]


def _share_out(source: Source, groups: Sequence[Indices], splits: Splits, seed: int) -> _Shared:
    random = np.random.default_rng([seed, 2])
    given = np.array([_SIDES.index(name or "train") for name in source.given], np.int8)
    sides = np.zeros(len(given), np.int8)
    pools: list[list[Indices]] = [[] for _ in source.labels]
    contradictory = 0
    for group in groups:
        # Test before validation before train: the order of the numbers.
        if side := int(given[group].max()):
            sides[group] = side
            if _SIDES[side] == "test" and len(np.unique(source.targets[group])) > 1:
                contradictory += len(group)
        else:
            pools[source.targets[group[0]]].append(group)
    shares = choose_splits(splits, len(given))
    moved = sides != given
    own, lost = (np.bincount(source.targets[which]) for which in (given == 0, moved & (given == 0)))
    asked = Counter[str]()
    poor = {number for number, count in enumerate(lost.tolist()) if count > _MOST_OF_A_CLASS * own[number]}
    for number, pool in enumerate(pools):
        if not pool:
            continue
        size = sum(map(len, pool))
        wanted = {
            name: 0 if name in source.given else max(1, round(size * share))
            for name, share in (("test", shares.test), ("validation", shares.validation))
        }
        # Tiny classes: rounding must not eat up what there is to train on.
        if sum(wanted.values()) >= size:
            wanted = {name: min(1, count) for name, count in wanted.items()}
        asked.update(wanted)
        ordered = _ordered(pool, source, max(wanted.values()), random)
        for name, count in wanted.items():
            # One group is for training, and one for validation where that is yet to be drawn.
            left = 1 + (name == "test" and wanted["validation"] > 0)
            drawn = _draw(ordered, count, left)
            sides[drawn] = _SIDES.index(name)
            if name == "test" and 2 * len(drawn) < count:
                poor.add(number)
    return _Shared(
        sides, int(moved.sum()), contradictory, {name: asked[name] for name in asked if name not in source.given}, poor
    )


def _ordered(pool: Sequence[Indices], source: Source, most: int, random: np.random.Generator) -> list[Indices]:
    """The groups in random order; first, to be drawn last, those with several labels or more than `most` images."""

    def ordinary(group: Indices) -> bool:
        return len(group) == 1 or (len(group) <= most and len(np.unique(source.targets[group])) == 1)

    return sorted((pool[number] for number in random.permutation(len(pool))), key=ordinary)


def _draw(groups: list[Indices], count: int, left: int) -> Indices:
    """Take groups off the end until they hold about `count` images, as near as the next group lets them come.

    At least one is taken, but never the last; of others `left` stay. One that is larger than all that is wanted is only
    taken where nothing else was.
    """
    drawn: list[Indices] = []
    have = 0
    while have < count and len(groups) > (left if drawn else 1):
        size = len(groups[-1])
        if drawn and (size > count or have + size - count > count - have):
            break
        drawn.append(groups.pop())
        have += size
    return np.concatenate([np.empty(0, np.int64), *drawn])


def _incomplete(source: Source, shared: _Shared) -> dict[int, str]:
    """Classes that lack an image to train or to test, with the side."""
    counts = np.zeros((len(source.labels), len(_SIDES)), np.int64)
    np.add.at(counts, (source.targets, shared.sides), 1)
    return {
        number: name
        for number in range(len(source.labels))
        for name in ("test", "train")
        if counts[number, _SIDES.index(name)] == 0
    }


def _named(source: Source, numbers: Collection[int]) -> str:
    labels = [source.labels[number] for number in sorted(numbers)]
    shown = ", ".join(map(repr, labels[:_MOST_NAMED]))
    return f"{shown} and {len(labels) - _MOST_NAMED} more classes" if len(labels) > _MOST_NAMED else shown
