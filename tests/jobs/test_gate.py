"""Datasets that no training can come of."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import InvalidDataset
from app.jobs.gate import check_trainable
from app.store.builtin import builtin_reports
from app.store.dataset_report import DatasetReport


def report(**fields: Any) -> DatasetReport:
    spread = {"min": 8, "median": 8, "max": 8}
    classes = fields.pop("classes", {"a": 5, "b": 5})
    return DatasetReport.model_validate(
        {
            "name": "some",
            "images": sum(classes.values()),
            "classes": classes,
            "sizes": {"width": spread, "height": spread},
            "formats": {},
            "modes": {},
            "grayscale": True,
            **fields,
        }
    )


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"classes": {"a": 2, "b": 2}},
        {"distinct_images": {"a": 2, "b": 5}},
        {"missing_in_splits": {"validation": ["a"]}},
    ],
    ids=["ordinary", "two images a class", "copies of two files", "class without validation"],
)
def test_what_can_be_trained_on_passes(fields: dict[str, Any]) -> None:
    """Two different images a class are enough; validation can do without a class."""
    passed = report(**fields)
    check_trainable(passed)
    assert passed.classes


def test_the_built_in_datasets_pass() -> None:
    """They come with Fovea to be trained on."""
    for built_in in builtin_reports().values():
        check_trainable(built_in)
        assert built_in.builtin


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"classes": {"a": 5}}, "has one class only, 'a'"),
        ({"classes": {}}, "one class only"),
        ({"classes": {"a": 1, "b": 5}}, "fewer than 2 images of 'a'; every class needs one to train and one to test"),
        (
            {"classes": {str(number): 1 for number in range(7)}},
            "images of '0', '1', '2', '3', '4' and 2 more classes; every",
        ),
        ({"distinct_images": {"a": 1, "b": 5}}, "nothing but copies of one file in 'a'"),
        ({"missing_in_splits": {"test": ["b"]}}, "The test split of dataset some has no image of 'b'"),
        ({"missing_in_splits": {"train": ["b"]}}, "The train split of dataset some has no image of 'b'"),
    ],
)
def test_what_cannot_is_refused_with_the_reason(fields: dict[str, Any], said: str) -> None:
    """The message says what is wrong, where, and what to do."""
    with pytest.raises(InvalidDataset) as refused:
        check_trainable(report(**fields))
    assert said in str(refused.value)
