"""What is asked for in JSON is taken for what it is, and refused in plain words."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from pydantic import ValidationError

from app.asked import plain
from app.jobs.spec import TrainingSpec

NETWORKS = "Allowed: 'simple_cnn', 'resnet_small', 'mobilenet_v2',"


def _refused(**fields: Any) -> dict[str, str]:
    """What is said of each field of a spec, by its place; the same from JSON and from what JSON was read to."""
    spec = {"dataset": "pets", **fields}
    with pytest.raises(ValidationError) as read:
        TrainingSpec.model_validate(spec)
    with pytest.raises(ValidationError) as written:
        TrainingSpec.model_validate_json(json.dumps(spec))
    said, again = (
        {".".join(map(str, entry["loc"])): plain(entry) for entry in error.value.errors()} for error in (read, written)
    )
    assert said == again
    return said


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("epochs", "3", "must be a whole number, at least 1 and at most 10,000"),
        ("epochs", True, "must be a whole number, at least 1 and at most 10,000"),
        ("epochs", 3.5, "must be a whole number, at least 1 and at most 10,000"),
        ("epochs", 10**400, "must be a whole number, at least 1 and at most 10,000"),
        ("momentum", "0.5", "must be a number, at least 0 and below 1"),
        ("momentum", False, "must be a number, at least 0 and below 1"),
        ("momentum", 1, "must be a number, at least 0 and below 1"),
        ("momentum", None, "must be a number, at least 0 and below 1"),
        ("momentum", float("nan"), "must be a number, at least 0 and below 1"),
        ("nesterov", "yes", "must be true or false"),
        ("nesterov", 1, "must be true or false"),
        ("mixed_precision", "yes", "must be true, false or 'auto'"),
        ("mixed_precision", 0, "must be true, false or 'auto'"),
        ("precisions", "bf16", "must be a list: […]"),
        ("early_stopping", 10, "must be an object: {…}"),
        ("schedule", "linear", "must be 'constant', 'step', 'exponential' or 'cosine'"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_what_is_allowed(field: str, value: object, said: str) -> None:
    """No string and no truth is taken for a number; a number out of bounds is told both of them."""
    assert _refused(**{field: value}) == {field: said}


def test_it_is_so_inside_of_what_is_asked_for_too() -> None:
    """In objects, lists and ranges, and in what a search would try."""
    assert _refused(augmentation={"rotation": "3"}) == {
        "augmentation.rotation": "must be a number, at least 0 and at most 180"
    }
    assert _refused(architecture={"name": "simple_cnn", "filters": [8, "16"]}) == {
        "architecture.simple_cnn.filters": "entry 2 must be a whole number"
    }
    assert _refused(search={"trials": 2, "space": {"epochs": {"low": "1", "high": 3}}}) == {
        "search.space.epochs.range.low": "must be a number"
    }
    [said] = _refused(search={"trials": 2, "space": {"epochs": [1, "2"]}}).values()
    assert said.startswith("space.epochs: value 2 is refused (epochs: must be a whole number")


def test_all_that_is_wrong_is_told_at_once() -> None:
    """Wrong kinds beside unknown fields and wrong names."""
    said = _refused(epochs="3", momentum=2, optimizer="lion", epoch=1, resources={"cpus": True, "gpu": 1})
    assert said == {
        "epochs": "must be a whole number, at least 1 and at most 10,000",
        "momentum": "must be a number, at least 0 and below 1",
        "optimizer": "must be 'adam', 'adamw', 'sgd' or 'rmsprop'",
        "epoch": "there is no such field",
        "resources.cpus": "must be a whole number, at least 1 and at most 1,024",
        "resources.gpu": "there is no such field",
    }


@pytest.mark.parametrize(
    ("fields", "place", "said"),
    [
        ({"architecture": {"filters": [8]}}, "architecture", f"its name is missing, .* {NETWORKS}"),
        ({"architecture": {"name": "vgg"}}, "architecture", f"there is no network of this name. {NETWORKS}"),
        (
            {"architecture": "simple_cnn"},
            "architecture",
            f"must be an object with the name of .* {NETWORKS}",
        ),
        (
            {"architecture": {"name": "mobilenet_v2", "weights": "../a.h5"}},
            "architecture.mobilenet_v2.weights",
            "must be the name of a file in the folder 'weights' .* ends in .h5 or .keras: .* no folder",
        ),
        *[
            ({"class_weights": value}, "class_weights", "must be 'none', 'balanced', or an object with a factor, at le")
            for value in ("equal", 3, {"cat": -1}, {"cat": "2"}, {"cat": True}, {"cat": None})
        ],
        ({"search": {"trials": 2, "space": {}}}, "search.space", "is empty: name at least one field"),
        ({"search": {"trials": 2, "space": {"warmup": 0.1}}}, "search.space", "warmup: must be a list of values, or a"),
        ({"search": {"trials": 2, "space": {"Warm up": [0]}}}, "search.space", "'Warm up' is no path of a field"),
        (
            {"search": {"trials": 2, "space": {"warmup": {"low": 0.1}}}},
            "search.space.warmup.range",
            "a range needs both its ends, low and high",
        ),
        (
            {"search": {"trials": 2, "space": {"warmup": {"min": 0.1}}}},
            "search.space.warmup.range",
            "'min' is no field of a range. Allowed: low, high, log, step",
        ),
    ],
    ids=str,
)
def test_what_is_allowed_is_named_in_plain_words(fields: dict[str, Any], place: str, said: str) -> None:
    """Without pydantic's tags and types, and without a pattern: nobody who trains has to know these."""
    found = _refused(**fields)
    assert [*found] == [place]
    assert re.match(said, found[place]), found[place]


def test_whole_numbers_may_be_written_with_a_point() -> None:
    """3.0 is 3, for numbers of any kind; and whole numbers do where others are wanted."""
    spec = TrainingSpec.model_validate_json('{"dataset": "pets", "epochs": 3.0, "learning_rate": 1, "momentum": 0}')
    assert (spec.epochs, spec.learning_rate, spec.momentum) == (3, 1, 0)
    TrainingSpec.model_validate(
        {"dataset": "pets", "search": {"trials": 2, "space": {"epochs": {"low": 1.0, "high": 3.0}}}}
    )


def test_specs_that_earlier_releases_stored_can_be_read() -> None:
    """They were written by the model, so that every value in them is of its kind."""
    spec = TrainingSpec.model_validate(
        {
            "dataset": "pets",
            "architecture": {"name": "mobilenet_v2", "weights": "a.h5"},
            "class_weights": {"cat": 2},
            "search": {"trials": 3, "space": {"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}},
        }
    )
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec
    stored = '{"dataset": "pets", "shapes": {"images": 1000, "noise": 0.0}, "class_weights": "none", "epochs": null}'
    assert TrainingSpec.model_validate_json(stored).epochs is None
