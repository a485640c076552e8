"""Which images train, which validate, and which are held out to test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from app.errors import TrainingFailed
from app.jobs.spec import Splits
from app.store.dataset_report import LEAST_IMAGES
from app.training.sources import Source

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Positions in a source: sorted, disjoint, and all of them."""

    train: Indices
    validation: Indices
    test: Indices


def split(source: Source, splits: Splits, seed: int) -> Split:
    """Share out each class on its own, with at least one image of it on each side.

    What the dataset's own folders call test or validation is that; only a side that they do not name is drawn from
    the rest. Copies of one file within a class stay together, so that no test image was trained on.

    Raises:
        TrainingFailed: a class has too few images.
    """
    random = np.random.default_rng([seed, 2])
    given = np.array([name or "train" for name in source.given])
    sides: dict[str, list[Indices]] = {"train": [], "validation": [], "test": []}
    for number, label in enumerate(source.labels):
        members = np.flatnonzero(source.targets == number)
        if len(members) < LEAST_IMAGES:
            raise TrainingFailed(
                f"Class {label!r} has {len(members)} usable images; at least {LEAST_IMAGES} are needed: one each to "
                "train, to validate and to test. Add images, or leave the class out."
            )
        chosen = _share_out({name: members[given[members] == name] for name in sides}, source, splits, random)
        for name, positions in chosen.items():
            if len(positions) == 0:
                raise TrainingFailed(
                    f"Class {label!r} has no image left for the {name} split: its files are copies of each other, or "
                    "the dataset's own folders hold none of it there. Add different images, or leave the class out."
                )
            sides[name].append(positions)
    train, validation, test = (np.sort(np.concatenate(sides[name])) for name in ("train", "validation", "test"))
    return Split(train, validation, test)


def _share_out(
    given: dict[str, Indices], source: Source, splits: Splits, random: np.random.Generator
) -> dict[str, Indices]:
    """Share out one class: `given` says where its images are by the dataset's own folders."""
    pool = given["train"]
    wanted = {
        name: 0 if name in source.given else max(1, round(len(pool) * share))
        for name, share in (("test", splits.test), ("validation", splits.validation))
    }
    groups = _groups(pool, source, random)
    # Tiny classes: rounding must not eat up what there is to train on.
    if sum(wanted.values()) >= len(groups):
        wanted = {name: min(1, count) for name, count in wanted.items()}
    held_out = {name: np.concatenate([given[name], _draw(groups, count)]) for name, count in wanted.items()}
    return {"train": np.concatenate([np.empty(0, np.int64), *groups]), **held_out}


def _groups(pool: Indices, source: Source, random: np.random.Generator) -> list[Indices]:
    """The positions in random order, copies of one file together."""
    copies: dict[str, list[int]] = {}
    for position in pool.tolist():
        copies.setdefault(source.contents[position], []).append(position)
    groups = [np.array(positions, np.int64) for positions in copies.values()]
    return [groups[number] for number in random.permutation(len(groups))]


def _draw(groups: list[Indices], count: int) -> Indices:
    """Take groups off the end until they hold at least `count` images, but never the last group."""
    drawn: list[Indices] = []
    while len(groups) > 1 and sum(map(len, drawn)) < count:
        drawn.append(groups.pop())
    return np.concatenate([np.empty(0, np.int64), *drawn])
