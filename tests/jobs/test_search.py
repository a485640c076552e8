"""A search is checked when it is asked for: what no trial could come of is refused, with what is allowed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from app.jobs.search import TUNABLE, with_values
from app.jobs.spec import TrainingSpec

RATE = {"low": 0.0001, "high": 0.1, "log": True}
FIVE = ("momentum", "warmup", "label_smoothing", "weight_average", "weight_decay")
CNN = {"architecture": {"name": "simple_cnn"}}


def _spec(search: dict[str, Any], **fields: Any) -> TrainingSpec:
    document = {"dataset": "digits", "search": {"trials": 3, **search}, **fields}
    return TrainingSpec.model_validate_json(json.dumps(document))


@pytest.mark.parametrize(
    ("search", "fields"),
    [
        ({"space": {"learning_rate": RATE}}, {}),
        ({"space": {"architecture.filters": [[8], [8, 16]], "architecture.dropout": {"low": 0, "high": 0.5}}}, CNN),
        ({"space": {"architecture.name": ["simple_cnn", "resnet_small"], "architecture.dropout": [0, 0.2]}}, {}),
        ({"space": {"architecture": [{"name": "simple_cnn"}, {"name": "resnet_small", "stem": 8}]}}, {}),
        (
            {"space": {"augmentation.rotation": {"low": 0, "high": 30}, "augmentation.vertical_flip": [True, False]}},
            {},
        ),
        ({"space": {"preprocessing.normalization": ["0..1", "standardize"], "early_stopping.patience": [2, 4]}}, {}),
        ({"space": {"class_weights": ["none", "balanced", {"3": 2}], "optimizer": ["sgd", None]}}, {}),
        ({"space": {"batch_size": {"low": 16, "high": 128, "log": True}, "epochs": [2, 3]}}, {}),
        ({"method": "grid", "trials": None, "space": {"warmup": {"low": 0, "high": 0.2, "step": 0.1}}}, {}),
        ({"method": "grid", "trials": None, "space": {"batch_size": {"low": 16, "high": 20}}}, {}),
        ({"method": "random", "trials": None, "minutes": 3, "space": {"decay": [0.1, 0.5]}}, {}),
    ],
)
def test_any_tunable_field_can_be_searched_over(search: dict[str, Any], fields: dict[str, Any]) -> None:
    """Nested fields, whole objects, numbers and names: what a spec may say, a space may list; it comes back as sent."""
    spec = _spec(search, **fields)
    assert TrainingSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("search", "fields", "said"),
    [
        (
            {"space": {"learning_rat": RATE}},
            {},
            r"space\.learning_rat: there is no such field. Allowed: .*learning",
        ),
        ({"space": {"augmentation.spin": [1]}}, {}, r"no such field. Allowed: .*augmentation\.rotation"),
        ({"space": {"seed": [1, 2]}}, {}, r"space\.seed: seed is not searched over.*Allowed: preprocessing"),
        ({"space": {"splits.test": [0.1]}}, {}, r"splits is not searched over"),
        ({"space": {"architecture.filters": [[8]]}}, {}, r"set architecture\.name in the spec, or search over it"),
        ({"space": {"architecture.filters": [[8], [0]]}}, CNN, r"filters: value 2 is refused .*between 1 and 2048"),
        (
            {"space": {"architecture.name": ["simple_cnn", "resnet_small"], "architecture.stem": [8]}},
            {},
            r"space\.architecture\.stem: value 1 is refused \(architecture\.simple_cnn\.stem: there is no such field",
        ),
        (
            {"space": {"architecture": [{"name": "simple_cnn"}], "architecture.name": ["resnet_small"]}},
            {},
            r"architecture is searched over too",
        ),
        ({"space": {"augmentation": [None], "augmentation.zoom": [0.1]}}, {}, r"augmentation is searched over too"),
        (
            {"space": {"augmentation.rotation": {"low": 0, "high": 200}}},
            {},
            r"high is refused .*must be a number, at least 0 and at most 180",
        ),
        ({"space": {"optimizer": ["adam", "lion"]}}, {}, r"space\.optimizer: value 2 is refused .*'rmsprop'"),
        ({"space": {"optimizer": {"low": 0, "high": 1}}}, {}, r"a range is for numbers"),
        ({"space": {"nesterov": {"low": 0, "high": 1}}}, {}, r"a range is for numbers"),
        ({"space": {"batch_size": {"low": 16, "high": 32.5}}}, {}, r"batch_size: high must be a whole number"),
        ({"space": {"batch_size": [16, 16]}}, {}, r"batch_size: a value is in the list twice"),
        ({"space": {"learning_rate": {"low": 0.1, "high": 0.01}}}, {}, r"low must be less than high"),
        ({"space": {"warmup": {"low": 0, "high": 0.5, "log": True}}}, {}, r"log needs a low above 0"),
        ({"space": {"learning_rate": {**RATE, "low": 1e-320}}}, {}, r"log needs a low of 1e-12 or more"),
        ({"space": {"weight_decay": {"low": 0, "high": 1e-320}}}, {}, r"must be 1e-12 apart, or more"),
        ({"space": {"momentum": {"low": 0, "high": 0.9, "step": 1e-300}}}, {}, r"step is too small: .* 1,000,000 val"),
        (
            {"space": {"momentum": {"low": 0, "high": 1e308}}},
            {},
            r"step must be between -1,000,000,000 and 1",
        ),
        ({"space": {"epochs": {"low": 1, "high": 10**400}}}, {}, r"must be between -1,000,000,000 and"),
        ({"space": {"learning_rate": [10**400]}}, {}, r"learning_rate: value 1 is refused"),
        ({"space": {"epochs": {"low": 1, "high": 9, "step": 10**400}}}, {}, r"must be between -1,000,000,000 and"),
        (
            {"method": "grid", "space": {name: {"low": 0, "high": 0.8, "step": 0.001} for name in FIVE}},
            {},
            r"the grid has more than 1,000,000,000,000 combinations, and 100,000 are",
        ),
        ({"space": {"learning_rate": {**RATE, "step": 0.01}}}, {}, r"log and step do not go together"),
        ({"space": {"learning_rate": {"low": 0.1}}}, {}, r"a range needs both its ends, low and high"),
        ({"space": {"learning_rate": 0.1}}, {}, r"learning_rate: must be a list of values, or a range"),
        ({"space": {"learning_rate": []}}, {}, r"at least 1 item"),
        ({"space": {}}, {}, r"is empty: name at least one field"),
        ({"space": {name: [n / 50 for n in range(41)] for name in FIVE}}, {}, r"more than 200 values together"),
        ({"method": "grid", "space": {"learning_rate": RATE}}, {}, r"a grid has no end in a continuous range"),
        ({"method": "grid", "space": {"momentum": {"low": 0, "high": 0.5}}}, {}, r"give a list of values, or a step"),
        (
            {"method": "grid", "trials": None, "space": {"momentum": {"low": 0, "high": 0.9, "step": 0.0001}}},
            {},
            r"the grid has 9,001 combinations, and 1,000 are allowed; more with a budget",
        ),
        ({"method": "random", "trials": None, "space": {"momentum": [0.9]}}, {}, r"random needs a budget"),
        ({"trials": 0, "space": {"momentum": [0.9]}}, {}, r"must be a whole number, at least 1 and at most 1,000"),
        ({"epochs": 3, "space": {"epochs": [3, 5]}}, {}, r"search over epochs without it"),
    ],
)
def test_what_no_trial_could_come_of_is_refused(search: dict[str, Any], fields: dict[str, Any], said: str) -> None:
    """The refusal names the path of the space, what is wrong with it, and what is allowed."""
    with pytest.raises(ValidationError, match=said):
        _spec(search, **fields)


def test_every_field_of_the_spec_is_either_searched_over_or_not_on_purpose() -> None:
    """A new field of the spec has to be put on one side."""
    fixed = {
        "dataset",
        "model",
        "shapes",
        "mirror_average",
        "unknown_keeps",
        "splits",
        "near_duplicates",
        "seed",
        "checkpoint_seconds",
        "resources",
        "precisions",
        "precision_loss",
        "promotion",
        "promotion_margin",
        "promotion_class_loss",
        "promotion_confidence",
        "search",
    }
    assert {*TUNABLE} | fixed == {*TrainingSpec.model_fields}


def test_another_network_begins_with_its_own_defaults() -> None:
    """A searched name keeps the spec's fields for the spec's own network only; what is searched beside it is set."""
    spec = {"architecture": {"name": "simple_cnn", "filters": [8], "dropout": 0.5}, "augmentation": None}
    same = with_values(spec, {"architecture.dropout": 0.1, "architecture.name": "simple_cnn"})
    other = with_values(spec, {"architecture.dropout": 0.1, "architecture.name": "resnet_small"})
    assert same["architecture"] == {"name": "simple_cnn", "filters": [8], "dropout": 0.1}
    assert other["architecture"] == {"name": "resnet_small", "dropout": 0.1}
    assert with_values(spec, {"augmentation.zoom": 0.2})["augmentation"] == {"zoom": 0.2}
    assert spec == {"architecture": {"name": "simple_cnn", "filters": [8], "dropout": 0.5}, "augmentation": None}
