"""Choosing the preprocessing, and splitting."""

from __future__ import annotations

import numpy as np
import pytest

from app.errors import TrainingFailed
from app.jobs.spec import PreprocessingSpec, Splits
from app.training.dataset import Source, choose_preprocessing, split


def _source(sizes: list[tuple[int, int]], *, grayscale: bool = False) -> Source:
    return Source(
        name="some",
        labels=["a", "b"],
        names=[str(number) for number in range(len(sizes))],
        targets=np.zeros(len(sizes), np.int32),
        read=lambda _: b"",
        sizes=sizes,
        grayscale=grayscale,
        fingerprint="",
    )


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(32, 32)] * 3, (32, 32)),
        ([(8, 8)] * 3, (28, 28)),
        ([(640, 480)] * 3, (96, 96)),
        ([(40, 30), (41, 31), (39, 29)], (30, 40)),
        ([(300, 40)] * 3, (96, 96)),
    ],
    ids=["as they are", "not too small to pool", "photos shrunk", "small ones keep their aspect", "banners squared"],
)
def test_the_input_size_follows_from_the_images(sizes: list[tuple[int, int]], expected: tuple[int, int]) -> None:
    """Without a size in the spec, the median size of the images decides, within what trains well."""
    chosen = choose_preprocessing(PreprocessingSpec(), _source(sizes))
    assert (chosen.height, chosen.width) == expected


def test_colour_follows_from_the_images_unless_asked_for() -> None:
    """Greyscale pictures make a greyscale model; the spec can say otherwise."""
    assert choose_preprocessing(PreprocessingSpec(), _source([(28, 28)], grayscale=True)).color == "grayscale"
    assert choose_preprocessing(PreprocessingSpec(), _source([(28, 28)])).color == "rgb"
    asked = choose_preprocessing(PreprocessingSpec(color="rgb", height=64), _source([(28, 28)], grayscale=True))
    assert (asked.color, asked.height, asked.width) == ("rgb", 64, 28)


def test_splits_are_stratified_disjoint_and_complete() -> None:
    """Each class is shared out in the same proportions, and every image goes to exactly one side."""
    targets = np.repeat([0, 1, 2], [100, 200, 40]).astype(np.int32)
    train, validation, test = split(targets, ["a", "b", "c"], Splits(validation=0.1, test=0.2), seed=0)
    assert sorted(np.concatenate([train, validation, test])) == list(range(340))
    assert np.bincount(targets[test]).tolist() == [20, 40, 8]
    assert np.bincount(targets[validation]).tolist() == [10, 20, 4]


def test_splits_depend_on_the_seed_alone() -> None:
    """The same seed gives the same split, another seed another one."""
    targets = np.repeat([0, 1], 50).astype(np.int32)
    first, again, other = (split(targets, ["a", "b"], Splits(), seed=seed)[2].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_a_class_of_three_still_trains_validates_and_tests() -> None:
    """The smallest class that can work gets one image on each side."""
    targets = np.array([0, 0, 0] + [1] * 30, np.int32)
    for part in split(targets, ["rare", "common"], Splits(), seed=0):
        assert (targets[part] == 0).sum() == 1


def test_a_class_that_is_too_small_is_named() -> None:
    """With two images in a class the job fails, and says which class and what to do."""
    with pytest.raises(TrainingFailed, match=r"Class 'rare' has 2 usable images; at least 3 .* Add images"):
        split(np.array([0, 0, 1, 1, 1], np.int32), ["rare", "common"], Splits(), seed=0)
