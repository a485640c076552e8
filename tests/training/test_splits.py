"""Which images train, which validate, and which are held out."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import TrainingFailed
from app.jobs.spec import Splits
from app.training.sources import Source
from app.training.splits import Split, split


def _source(
    counts: dict[str, int],
    contents: list[str] | None = None,
    given: list[str | None] | None = None,
    groups: list[int | None] | None = None,
) -> Source:
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
        groups=groups,
    )


def _sides(sides: Split) -> list[set[int]]:
    return [set(side.tolist()) for side in (sides.train, sides.validation, sides.test)]


def _together(sides: Split, positions: set[int]) -> bool:
    """Whether all of these positions are on one side."""
    return any(positions <= side for side in _sides(sides))


def test_splits_are_stratified_disjoint_and_complete() -> None:
    """Each class is shared out in the same proportions, and every image goes to exactly one side."""
    source = _source({"a": 100, "b": 200, "c": 40})
    sides = split(source, Splits(validation=0.1, test=0.2), seed=0)
    assert sorted(np.concatenate([sides.train, sides.validation, sides.test])) == list(range(340))
    assert np.bincount(source.targets[sides.test]).tolist() == [20, 40, 8]
    assert np.bincount(source.targets[sides.validation]).tolist() == [10, 20, 4]


@pytest.mark.parametrize(
    ("images", "expected"), [(1000, (750, 100, 150)), (25_000, (18_750, 2500, 3750)), (50_000, (42_500, 2500, 5000))]
)
def test_of_many_images_more_are_trained_on(images: int, expected: tuple[int, int, int]) -> None:
    """Where the spec does not say otherwise: more than a few thousand held out say little more than these do."""
    source = _source({"a": images // 2, "b": images // 2})
    assert tuple(map(len, _sides(split(source, Splits(), seed=0)))) == expected
    sides = split(source, Splits(test=0.2), seed=0)
    assert (len(sides.test), len(sides.validation)) == (images // 5, expected[1])


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


def test_copies_leave_the_sides_the_sizes_that_were_asked_for() -> None:
    """Of groups of twenty as many go to a side as come nearest to its share, though they are fewer than its images."""
    contents = [str(number // 20) for number in range(900)]
    for seed in range(10):
        sides = split(_source({"a": 300, "b": 300, "c": 300}, contents), Splits(validation=0.1, test=0.2), seed=seed)
        assert (len(sides.train), len(sides.validation), len(sides.test)) == (600, 120, 180)
        assert (sides.repeated, sides.groups) == (900, 45)
        assert sides.remarks == (
            "Images that repeat each other stay on one side, 900 of them in 45 groups of copies or look-alikes: so "
            "there are 120 to validate rather than 90.",
        )


def test_large_groups_leave_one_for_each_side() -> None:
    """Three groups are one to train, one to validate and one to test, whatever their sizes."""
    for sizes in ([58, 1, 1], [20, 20, 20], [1, 29, 30]):
        contents = [str(number) for number, size in enumerate(sizes) for _ in range(size)]
        sides = split(_source({"a": 60, "b": 60}, contents + [f"b{n}" for n in range(60)]), Splits(), seed=0)
        assert all({contents[position] for position in side if position < 60} for side in _sides(sides)), sizes


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


def test_a_class_of_two_trains_and_tests() -> None:
    """Two images are enough: one to train and one to test on. Validation does without the class, and says so."""
    source = _source({"rare": 2, "common": 30})
    for seed in range(10):
        sides = split(source, Splits(), seed=seed)
        assert [(source.targets[side] == 0).sum() for side in (sides.train, sides.validation, sides.test)] == [1, 0, 1]
        assert sides.remarks == sides.warnings == ("No image of 'rare' is left to validate on.",)


def test_where_all_classes_have_two_images_those_that_train_validate_too() -> None:
    """Something has to be validated on; the log says that it means little."""
    sides = split(_source({"a": 2, "b": 2}), Splits(), seed=0)
    assert sides.train.tolist() == sides.validation.tolist()
    assert len(sides.train) == len(sides.test) == 2
    assert not set(sides.train.tolist()) & set(sides.test.tolist())
    assert "those that train validate too" in sides.warnings[0]


def test_a_class_that_is_too_small_is_named() -> None:
    """With one image in a class the job fails, and says which class and what to do."""
    with pytest.raises(TrainingFailed, match=r"Class 'rare' has 1 usable image; at least 2 .* Add images"):
        split(_source({"rare": 1, "common": 3}), Splits(), seed=0)


def test_a_class_of_copies_is_named() -> None:
    """Ten copies of one file are one image: there is nothing to test on."""
    with pytest.raises(TrainingFailed, match=r"Class 'a' has no image left for the .* split: its files are copies"):
        split(_source({"a": 10, "b": 10}, contents=["same"] * 10 + list("0123456789")), Splits(), seed=0)


def test_a_class_missing_in_the_own_test_folder_is_named() -> None:
    """A dataset whose test folder lacks a class cannot be evaluated on that class."""
    given: list[str | None] = ["test" if 10 <= number < 14 else "train" for number in range(20)]
    with pytest.raises(TrainingFailed, match="Class 'a' has no image left for the test split"):
        split(_source({"a": 10, "b": 10}, given=given), Splits(), seed=0)


class TestLookAlikes:
    def test_they_stay_on_one_side_with_every_seed(self) -> None:
        """What looks the same is never trained on and tested on, within a class and across classes."""
        groups: list[int | None] = [None] * 120
        planted = [{0, 1}, {10, 20, 30}, {5, 65}, {70, 119}, {40, 41, 42, 43, 100}]
        for number, positions in enumerate(planted):
            for position in positions:
                groups[position] = number
        source = _source({"a": 60, "b": 60}, groups=groups)
        for seed in range(20):
            sides = split(source, Splits(), seed=seed)
            assert all(_together(sides, positions) for positions in planted), seed
            assert sorted(np.concatenate([sides.train, sides.validation, sides.test])) == list(range(120))
            assert sides.remarks == ()

    def test_they_count_as_different_where_the_spec_says_so(self) -> None:
        """`near_duplicates: ignore` shares out as if nobody had looked."""
        groups: list[int | None] = [number // 2 for number in range(120)]
        source, plain = _source({"a": 60, "b": 60}, groups=groups), _source({"a": 60, "b": 60})
        sides, expected = (split(one, Splits(), 0, look_alikes=False) for one in (source, plain))
        assert _sides(sides) == _sides(expected)
        assert _sides(split(source, Splits(), 0)) != _sides(expected)

    def test_those_across_own_folders_are_all_tested_on(self) -> None:
        """A training image that looks like one of the dataset's own test folder leaves the training split."""
        given: list[str | None] = [
            "test" if n % 10 < 2 else "validation" if n % 10 == 2 else "train" for n in range(100)
        ]
        groups: list[int | None] = [None] * 100
        for number, positions in enumerate([(0, 5), (2, 6, 7), (11, 12)]):
            for position in positions:
                groups[position] = number
        sides = split(_source({"a": 50, "b": 50}, given=given, groups=groups), Splits(), seed=0)
        train, validation, test = _sides(sides)
        assert {0, 5, 11, 12} <= test
        assert {2, 6, 7} <= validation
        assert (len(train), len(validation), len(test)) == (67, 11, 22)
        assert sides.remarks == ("4 images moved to the split that has a copy, or an image that looks the same.",)

    def test_copies_of_a_file_across_own_folders_are_moved_too(self) -> None:
        """Whether or not anybody looked for look-alikes."""
        given: list[str | None] = ["test" if n % 10 < 2 else "train" for n in range(100)]
        contents = [str(number) for number in range(100)]
        contents[5] = contents[0]
        for look_alikes in (True, False):
            source = _source({"a": 50, "b": 50}, contents, given)
            assert {0, 5} <= _sides(split(source, Splits(), 0, look_alikes=look_alikes))[2]

    @pytest.mark.parametrize("copies", [True, False])
    def test_contradictions_across_own_folders_are_tested_on_and_told(self, copies: bool) -> None:
        """What somebody has set aside to test on is never trained on, whatever its labels; the log counts them."""
        given: list[str | None] = ["test" if n % 10 < 2 else "train" for n in range(100)]
        contents = [str(number) for number in range(100)]
        groups: list[int | None] = [None] * 100
        # One across folders and labels, one across labels within the test folder.
        for number, positions in enumerate([(0, 55), (10, 60)]):
            for position in positions:
                groups[position] = number
                if copies:
                    contents[position] = f"copy {number}"
        sides = split(_source({"a": 50, "b": 50}, contents, given, groups), Splits(), seed=0)
        train, _, test = _sides(sides)
        assert {0, 55, 10, 60} <= test
        assert not {0, 55, 10, 60} & train
        assert sides.remarks == (
            "1 image moved to the split that has a copy, or an image that looks the same.",
            "4 images to test on show what occurs under another label, too, so that no answer can be right on all of "
            "them: the dataset's own test folder is kept as it is.",
        )

    def test_a_training_folder_is_not_emptied_for_look_alikes(self) -> None:
        """Where much of a class looks like what is in the test folder, that is how it looks; copies still move."""
        given: list[str | None] = ["test" if n % 10 < 2 else "train" for n in range(100)]
        groups: list[int | None] = [n // 10 if n < 50 and n % 10 < 5 else None for n in range(100)]
        contents = [str(number) for number in range(100)]
        contents[7] = contents[0]
        sides = split(_source({"a": 50, "b": 50}, contents, given, groups), Splits(), seed=0)
        assert _sides(sides)[2] == {7, *(n for n in range(100) if n % 10 < 2)}
        assert len(sides.remarks) == 2

    def test_contradictions_train_rather_than_test(self) -> None:
        """A picture under two labels says nothing about how good a model is."""
        groups: list[int | None] = [None] * 100
        for number in range(20):
            groups[number] = groups[50 + number] = number
        source = _source({"a": 50, "b": 50}, groups=groups)
        for seed in range(10):
            train, _, _ = _sides(split(source, Splits(), seed))
            assert {number for number, group in enumerate(groups) if group is not None} <= train

    def test_a_class_that_looks_the_same_all_over_is_shared_out_all_the_same(self) -> None:
        """Where look-alikes are much of a class they are no copies: they are not kept together, and the log says so."""
        groups: list[int | None] = [7 if number < 40 else None for number in range(120)]
        sides = split(_source({"a": 60, "b": 60}, groups=groups), Splits(), seed=0)
        assert not _together(sides, set(range(40)))
        assert len(sides.test) == 18
        assert sides.remarks == (
            "Too many images of 'a' look alike to be kept on one side: only copies of one file are.",
        )

    def test_a_small_class_of_look_alikes_can_be_tested(self) -> None:
        """Better a test image that looks like a training one than a class that cannot be tested."""
        source = _source({"a": 4, "b": 40}, groups=[1] * 4 + [None] * 40)
        sides = split(source, Splits(), seed=0)
        assert [(source.targets[side] == 0).sum() for side in (sides.train, sides.validation, sides.test)] == [2, 1, 1]
        assert "of 'a' look alike" in sides.remarks[0]

    def test_a_large_group_does_not_fill_the_test_split(self) -> None:
        """A film of fifteen frames among sixty images trains; the test split has the size that was asked for."""
        groups: list[int | None] = [1 if number < 15 else None for number in range(120)]
        source = _source({"a": 60, "b": 60}, groups=groups)
        for seed in range(10):
            sides = split(source, Splits(), seed)
            assert set(range(15)) <= _sides(sides)[0]
            assert np.bincount(source.targets[sides.test]).tolist() == [9, 9]

    def test_a_class_of_copies_of_another_class_is_named(self) -> None:
        """When a class's every file is also in the test folder, nothing is left to train on."""
        given: list[str | None] = ["test" if n // 10 % 2 else "train" for n in range(40)]
        contents = [*map(str, range(10)), *map(str, range(10)), *map(str, range(20, 40))]
        with pytest.raises(TrainingFailed, match="Class 'a' has no image left for the train split"):
            split(_source({"a": 20, "b": 20}, contents, given), Splits(), seed=0)
