"""Which images train, which validate, and which are held out."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import TrainingFailed
from app.jobs.spec import Splits
from app.training.sources import Source
from app.training.splits import split


def _source(counts: dict[str, int], contents: list[str] | None = None, given: list[str | None] | None = None) -> Source:
    total = sum(counts.values())
    return Source(
        name="some",
        labels=list(counts),
        names=[str(number) for number in range(total)],
        targets=np.repeat(range(len(counts)), list(counts.values())).astype(np.int32),
        read=lambda _: b"",
        contents=contents or [str(number) for number in range(total)],
        given=given or [None] * total,
        sizes=[(28, 28)] * total,
        grayscale=False,
        fingerprint="",
    )


def test_splits_are_stratified_disjoint_and_complete() -> None:
    """Each class is shared out in the same proportions, and every image goes to exactly one side."""
    source = _source({"a": 100, "b": 200, "c": 40})
    sides = split(source, Splits(validation=0.1, test=0.2), seed=0)
    assert sorted(np.concatenate([sides.train, sides.validation, sides.test])) == list(range(340))
    assert np.bincount(source.targets[sides.test]).tolist() == [20, 40, 8]
    assert np.bincount(source.targets[sides.validation]).tolist() == [10, 20, 4]


def test_splits_depend_on_the_seed_alone() -> None:
    """The same seed gives the same split, another seed another one."""
    source = _source({"a": 50, "b": 50})
    first, again, other = (split(source, Splits(), seed=seed).test.tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_copies_of_a_file_stay_on_one_side() -> None:
    """What is tested on was not trained on under another name."""
    contents = [str(number // 3) for number in range(120)]
    sides = split(_source({"a": 60, "b": 60}, contents), Splits(), seed=0)
    seen = [{contents[position] for position in side} for side in (sides.train, sides.validation, sides.test)]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]


def test_the_folders_of_the_dataset_decide_where_they_say_so() -> None:
    """An own test folder is the test split, whole; validation, which it does not name, is drawn from the rest."""
    given: list[str | None] = ["test" if number % 10 < 3 else "train" for number in range(100)]
    sides = split(_source({"a": 50, "b": 50}, given=given), Splits(validation=0.1), seed=0)
    assert sides.test.tolist() == [number for number in range(100) if number % 10 < 3]
    assert len(sides.validation) == 8
    assert len(sides.train) == 62


def test_a_class_of_three_still_trains_validates_and_tests() -> None:
    """The smallest class that can work gets one image on each side."""
    source = _source({"rare": 3, "common": 30})
    sides = split(source, Splits(), seed=0)
    for side in (sides.train, sides.validation, sides.test):
        assert (source.targets[side] == 0).sum() == 1


def test_a_class_that_is_too_small_is_named() -> None:
    """With two images in a class the job fails, and says which class and what to do."""
    with pytest.raises(TrainingFailed, match=r"Class 'rare' has 2 usable images; at least 3 .* Add images"):
        split(_source({"rare": 2, "common": 3}), Splits(), seed=0)


def test_a_class_of_copies_is_named() -> None:
    """Ten copies of one file are one image: there is nothing to test on."""
    with pytest.raises(TrainingFailed, match=r"Class 'a' has no image left for the .* split: its files are copies"):
        split(_source({"a": 10, "b": 10}, contents=["same"] * 10 + list("0123456789")), Splits(), seed=0)


def test_a_class_missing_in_the_own_test_folder_is_named() -> None:
    """A dataset whose test folder lacks a class cannot be evaluated on that class."""
    given: list[str | None] = ["test" if 10 <= number < 14 else "train" for number in range(20)]
    with pytest.raises(TrainingFailed, match="Class 'a' has no image left for the test split"):
        split(_source({"a": 10, "b": 10}, given=given), Splits(), seed=0)
