"""Datasets that no training can come of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidDataset, InvalidSpec
from app.jobs.gate import check_submission, check_trainable
from app.jobs.spec import TrainingSpec
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


def submission(tmp_path: Path, **fields: Any) -> None:
    """Ask for a job on images of 28 x 40 pixels, where one file of weights is at hand."""
    sizes = {side: {"min": median, "median": median, "max": median} for side, median in (("width", 28), ("height", 40))}
    (tmp_path / "weights").mkdir(exist_ok=True)
    (tmp_path / "weights" / "there.h5").touch()
    check_submission(TrainingSpec.model_validate({"dataset": "some", **fields}), report(sizes=sizes), tmp_path)


MOBILE: Any = {"name": "mobilenet_v2"}
LARGE = {"height": 64, "width": 64}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"architecture": {"name": "simple_cnn", "filters": [4] * 4}},
        {"architecture": {"name": "resnet_small", "filters": [4] * 6}, "preprocessing": LARGE},
        {"architecture": {**MOBILE, "weights": "there.h5"}, "preprocessing": LARGE},
        {"class_weights": {"a": 2}},
        {"class_weights": "balanced"},
    ],
)
def test_a_spec_that_fits_passes(tmp_path: Path, fields: dict[str, Any]) -> None:
    """As many stages as the image can be halved, a file that is there, a class of the dataset."""
    submission(tmp_path, **fields)
    assert (tmp_path / "weights").is_dir()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (
            {"architecture": {"name": "simple_cnn", "filters": [4] * 5}},
            "asks for 5 stages, each of which pools squares of 2 x 2 pixels: images of 28 x 40 have room for 4",
        ),
        (
            {"architecture": {"name": "simple_cnn", "filters": [4] * 4, "pool_size": 4}, "preprocessing": LARGE},
            "images of 64 x 64 have room for 3. Either use fewer stages, a smaller pool_size or larger images",
        ),
        (
            {"architecture": {"name": "resnet_small", "filters": [4] * 5}, "preprocessing": {"height": 64}},
            "images of 28 x 64 have room for 4",
        ),
        ({"architecture": MOBILE}, "mobilenet_v2 needs images of at least 32 x 32 pixels, these are 28 x 40"),
        (
            {"architecture": {**MOBILE, "weights": "gone.h5"}, "preprocessing": LARGE},
            "There is no weights file 'gone.h5' in the folder 'weights' of the workspace. There are: there.h5.",
        ),
        ({"class_weights": {"c": 2}}, "class_weights names 'c', which is no class of the dataset. Its classes: a, b."),
    ],
)
def test_a_spec_that_would_fail_is_refused_with_what_is_allowed(
    tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    """Before any image is decoded."""
    with pytest.raises(InvalidSpec) as refused:
        submission(tmp_path, **fields)
    assert said in str(refused.value)


def test_what_a_search_decides_is_not_judged_beforehand(tmp_path: Path) -> None:
    """The network of the spec is not the one that will be trained."""
    deep = {"name": "simple_cnn", "filters": [4] * 8}
    search = {"method": "grid", "space": {"architecture.filters": [[4], [8]]}}
    submission(tmp_path, architecture=deep, search=search)
    with pytest.raises(InvalidSpec, match="8 stages"):
        submission(tmp_path, architecture=deep, search={"method": "grid", "space": {"learning_rate": [0.1, 0.2]}})
