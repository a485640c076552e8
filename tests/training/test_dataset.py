"""Choosing the preprocessing, and decoding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.errors import TrainingFailed
from app.jobs.spec import PreprocessingSpec
from app.preprocessing import Preprocessing
from app.training.dataset import choose_preprocessing, decoded_parts
from app.training.reporter import Reporter
from app.training.sources import Source


def _source(sizes: list[tuple[int, int]], *, grayscale: bool = False) -> Source:
    return Source(
        name="some",
        labels=["a", "b"],
        names=[str(number) for number in range(len(sizes))],
        targets=np.zeros(len(sizes), np.int32),
        read=lambda _: b"no image",
        contents=[str(number) for number in range(len(sizes))],
        given=[None] * len(sizes),
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


def test_an_image_that_cannot_be_decoded_is_named(submit: Any) -> None:
    """When a file went bad since it was uploaded, the job's reason says which."""
    reporter = Reporter(submit(dataset="digits"), attempt=1)
    with pytest.raises(TrainingFailed, match=r"0: .*supported"):
        list(decoded_parts(_source([(28, 28)]), Preprocessing(height=8, width=8), reporter, threads=1, max_pixels=100))
