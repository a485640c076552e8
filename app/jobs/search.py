"""Search: over which fields of a spec to look for the best values, how, and for how long.

The paths of a space are dotted names of a spec's fields. A space is checked when a job is submitted: every value in
it is put into the spec and validated as if it had been asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    JsonValue,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from app.asked import Asked, members, plain

Values = dict[str, JsonValue]
"""What a trial tries: a value for each path of the space."""

# Whole numbers are not looked at as floats: those with hundreds of digits have none.
Finite = int | Annotated[float, Field(allow_inf_nan=False)]

# What a search may change: how the network is built, fed and trained. The rest says which data there are, which of
# them judge, and what becomes of the result; trials that differed in that could not be compared.
TUNABLE = (
    "preprocessing",
    "architecture",
    "augmentation",
    "optimizer",
    "momentum",
    "nesterov",
    "learning_rate",
    "schedule",
    "step_epochs",
    "decay",
    "warmup",
    "weight_decay",
    "label_smoothing",
    "class_weights",
    "weight_average",
    "mixed_precision",
    "epochs",
    "batch_size",
    "early_stopping",
)

# Each of them is validated at submission.
_MOST_VALUES = 200

# Points of a grid without a budget, and of one that is drawn from.
_MOST_TRIALS = 1000
_LARGEST_GRID = 100_000

# Bounds of a range's numbers, wide of all that a field may have: beyond them arithmetic gives out. So it does where a
# range has more values than can be counted through.
_LARGEST, _SMALLEST = 10**9, 1e-12
_MOST_POINTS = 1_000_000
# Above it a grid is not counted exactly.
_COUNTED = 10**12


class Range(Asked):
    """Numbers between two ends, both of which are in it."""

    low: Finite = Field(description="Least value of a range.")
    high: Finite = Field(description="Greatest value of a range.")
    log: bool = Field(False, description="Draw evenly over the logarithm: for what spans powers of ten.")
    step: Finite | None = Field(
        None, gt=0, description="Distance of neighbouring values, from `low` on. Unset: 1 for whole numbers, else any."
    )

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, value: object) -> object:
        if isinstance(value, dict):
            if unknown := value.keys() - cls.model_fields.keys():
                raise ValueError(f"{_cut(min(unknown))} is no field of a range. Allowed: {', '.join(cls.model_fields)}")
            if not {"low", "high"} <= value.keys():
                raise ValueError("a range needs both its ends, low and high")
        return value

    @model_validator(mode="after")
    def _possible(self) -> Range:
        if max(abs(self.low), abs(self.high), self.step or 0) > _LARGEST:
            raise ValueError(f"low, high and step must be between -{_LARGEST:,} and {_LARGEST:,}")
        if self.low >= self.high:
            raise ValueError("low must be less than high")
        if self.high - self.low < _SMALLEST:
            raise ValueError(f"low and high must be {_SMALLEST:g} apart, or more")
        if self.log and self.low <= 0:
            raise ValueError("log needs a low above 0")
        if self.log and self.low < _SMALLEST:
            raise ValueError(f"log needs a low of {_SMALLEST:g} or more")
        if self.log and self.step is not None:
            raise ValueError("log and step do not go together: give one of them, or a list of values")
        if self.step is not None and self.high - self.low > _MOST_POINTS * self.step:
            raise ValueError(f"step is too small: a range with one has at most {_MOST_POINTS:,} values")
        return self

    def points(self, step: float) -> int:
        """How many values there are in steps of `step`."""
        # Not to lose the last one to a rounding error.
        return int((self.high - self.low) / step + 1e-9) + 1


def _kind(value: object) -> str:
    return "range" if isinstance(value, (dict, Range)) else "choices"


Choices = Annotated[tuple[JsonValue, ...], Field(min_length=1, max_length=50)]
Tried = Annotated[Annotated[Choices, Tag("choices")] | Annotated[Range, Tag("range")], Discriminator(_kind)]
_LONGEST_PATH = 80
_PATH = r"^[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*$"
Path = Annotated[str, Field(max_length=_LONGEST_PATH, pattern=_PATH)]


class Search(Asked):
    """Try several specs for a few epochs each, and train the best one fully."""

    method: Literal["grid", "random", "tpe"] = Field(
        "tpe",
        description="`grid`: every combination, in an order drawn by the seed. `random`: combinations drawn evenly. "
        "`tpe`: drawn more and more where earlier trials did well (Optuna).",
    )
    space: dict[Path, Tried] = Field(
        min_length=1,
        max_length=20,
        description='What is tried for which fields, named by their dotted path: `{"architecture.filters": '
        '[[16, 32], [32, 64]], "learning_rate": {"low": 0.0001, "high": 0.01, "log": true}}`. A list has any values '
        "of the field.",
    )
    trials: int | None = Field(
        None, ge=1, le=_MOST_TRIALS, description="Most trials. Unset: as many as the time allows, or all of a grid."
    )
    minutes: float | None = Field(
        None,
        gt=0,
        le=100_000,
        description="No trial begins after so many minutes, and those that run then are stopped, once one is complete.",
    )
    epochs: int | None = Field(
        None, ge=1, le=10_000, description="Epochs of a trial. Unset: a third of those of the job, but at least 3."
    )
    objective: Literal["val_accuracy", "val_loss"] = Field(
        "val_accuracy",
        description="What the best trial has the best of, on the validation split; where trials are equal the other "
        "one decides.",
    )
    pruning: bool = Field(
        True,
        description="Stop a trial that is worse than half of the complete ones were after as many epochs, once there "
        "are four.",
    )
    parallel: int = Field(
        1, ge=1, le=64, description="Trials at a time; without Ray they share the processor's threads."
    )

    @field_validator("space", mode="before")
    @classmethod
    def _written(cls, space: object) -> object:
        # What pydantic would tell by the name of a type, or by the pattern.
        if not isinstance(space, dict):
            raise ValueError('must be an object with what is tried for each field: {"learning_rate": [0.001, 0.01]}')
        if not space:
            raise ValueError('is empty: name at least one field, with what is tried for it, {"batch_size": [32, 64]}')
        for path, tried in space.items():
            if len(path) > _LONGEST_PATH or not re.fullmatch(_PATH, path):
                raise ValueError(
                    f"{_cut(path)} is no path of a field: allowed are the names of the spec's fields, with a dot "
                    "before what is inside of one, such as 'augmentation.rotation'"
                )
            if not isinstance(tried, (list, tuple, dict, Range)):
                raise ValueError(f"{path}: must be a list of values, or a range, an object with low and high")
        return space

    @model_validator(mode="after")
    def _bounded(self) -> Search:
        if self.method != "grid" and self.trials is None and self.minutes is None:
            raise ValueError(f"{self.method} needs a budget: give trials, minutes, or both")
        if sum(len(tried) for tried in self.space.values() if isinstance(tried, tuple)) > _MOST_VALUES:
            raise ValueError(f"the lists of space have more than {_MOST_VALUES} values together: use ranges")
        return self


def check_search(search: Search, spec: Mapping[str, Any], model: type[BaseModel]) -> None:
    """Refuse a space that a trial's spec could not come of.

    Args:
        search: what was asked for.
        spec: the other fields of the spec, dumped.
        model: of the spec.

    Raises:
        ValueError: which path of the space is wrong, why, and what is allowed.
    """
    whole: dict[str, bool] = {}
    for path, tried in search.space.items():
        with _naming(path):
            _check_path(path, search, spec, model)
            _check_tried(tried, fields_at(model, path))
        whole[path] = is_whole(path, model)
    if search.method == "grid":
        _check_grid(search, whole)
    structure = next((path for path in ("architecture", "architecture.name") if path in search.space), None)
    for network in _ends(search.space[structure]) if structure else [None]:
        base: Values = {structure: network} if structure else {}
        for path, tried in search.space.items():
            for position, value in enumerate(_ends(tried)):
                if path == structure and value != network:
                    continue
                _check_value(path, tried, position, model, with_values(spec, base | {path: value}))


def with_values(spec: Mapping[str, Any], values: Mapping[str, JsonValue]) -> dict[str, Any]:
    """A dumped spec with `values` in it.

    Another `architecture.name` than the spec's begins with that network's defaults.
    """
    changed: dict[str, Any] = {**spec}
    # What is inside of something is set after it, and what a network has after which one it is.
    for path in sorted(values, key=lambda path: (path.count("."), path != "architecture.name")):
        *parents, name = path.split(".")
        inside = changed
        for parent in parents:
            inside[parent] = {**(inside.get(parent) or {})}
            inside = inside[parent]
        if path == "architecture.name" and inside.get("name") != values[path]:
            inside.clear()
        inside[name] = values[path]
    return changed


def fields_at(model: type[BaseModel], path: str) -> list[FieldInfo]:
    """The fields that a dotted path names: none if there is none, several where a field may hold several models."""
    models, found = [model], list[FieldInfo]()
    for name in path.split("."):
        found = [inner.model_fields[name] for inner in models if name in inner.model_fields]
        models = [inner for field in found for inner in _models(field.annotation)]
    return found


def is_whole(path: str, model: type[BaseModel]) -> bool:
    """Whether the field holds whole numbers only."""
    types = _types(fields_at(model, path))
    return int in types and float not in types


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Put the path of a space before what is wrong with it."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"space.{path}: {error}") from None


def _check_path(path: str, search: Search, spec: Mapping[str, Any], model: type[BaseModel]) -> None:
    root = path.partition(".")[0]
    if root in model.model_fields and root not in TUNABLE:
        raise ValueError(
            f"{root} is not searched over: trials that differ in it could not be compared. Allowed: "
            f"{', '.join(TUNABLE)}, and fields of them"
        )
    if not fields_at(model, path):
        raise ValueError(f"there is no such field. Allowed: {', '.join(_neighbours(model, path))}")
    if path == "epochs" and search.epochs is not None:
        raise ValueError("search.epochs says how long a trial is: search over epochs without it")
    parent = path.rpartition(".")[0]
    if parent in search.space and (parent != "architecture" or path == "architecture.name"):
        raise ValueError(f"{parent} is searched over too, with all that is in it: choose one of them")
    inside = root == "architecture" and path not in ("architecture", "architecture.name")
    if inside and not spec.get("architecture") and not {"architecture", "architecture.name"} & search.space.keys():
        raise ValueError(
            "which network this is for would be chosen from the data: set architecture.name in the spec, or search "
            "over it"
        )


def _check_tried(tried: tuple[JsonValue, ...] | Range, fields: Sequence[FieldInfo]) -> None:
    if isinstance(tried, tuple):
        # As JSON, where true is not 1.
        if len({json.dumps(value, sort_keys=True) for value in tried}) < len(tried):
            raise ValueError("a value is in the list twice")
        return
    types = _types(fields)
    if not types & {int, float}:
        raise ValueError("a range is for numbers: give a list of values")
    if float not in types:
        ends = {"low": tried.low, "high": tried.high, "step": tried.step}
        if broken := [name for name, value in ends.items() if value is not None and value != int(value)]:
            raise ValueError(f"{broken[0]} must be a whole number here")


def _check_grid(search: Search, whole: Mapping[str, bool]) -> None:
    size = 1
    for path, tried in search.space.items():
        if isinstance(tried, tuple):
            size *= len(tried)
            continue
        if tried.log or (tried.step is None and not whole[path]):
            raise ValueError(
                f"space.{path}: a grid has no end in a continuous range: give a list of values, or a step without log; "
                "or use the method random or tpe"
            )
        size *= tried.points(tried.step or 1)
    most = _MOST_TRIALS if search.trials is None and search.minutes is None else _LARGEST_GRID
    if size > most:
        counted = f"{size:,}" if size <= _COUNTED else f"more than {_COUNTED:,}"
        raise ValueError(
            f"the grid has {counted} combinations, and {most:,} are allowed"
            + ("; more with a budget of trials or minutes" if most == _MOST_TRIALS else "")
        )


def _check_value(
    path: str, tried: tuple[JsonValue, ...] | Range, position: int, model: type[BaseModel], spec: Mapping[str, Any]
) -> None:
    try:
        model.model_validate(spec)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        which = f"value {position + 1}" if isinstance(tried, tuple) else ("low", "high")[position]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"space.{path}: {which} is refused ({where}: {plain(first)})") from None


def _cut(name: str) -> str:
    return repr(name[:_LONGEST_PATH])


def _ends(tried: tuple[JsonValue, ...] | Range) -> Sequence[JsonValue]:
    """The values that stand for all: what lies between the ends of a range is valid if they are."""
    return tried if isinstance(tried, tuple) else (tried.low, tried.high)


def _neighbours(model: type[BaseModel], path: str) -> list[str]:
    """Fields that may have been meant: those beside it where the part before it is right, else all."""
    parent = path.rpartition(".")[0]
    models = [inner for field in fields_at(model, parent) for inner in _models(field.annotation)] if parent else []
    if parent.partition(".")[0] in TUNABLE and models:
        return sorted({f"{parent}.{name}" for inner in models for name in inner.model_fields})
    return [*TUNABLE]


def _types(fields: Sequence[FieldInfo]) -> set[object]:
    return {kind for field in fields for kind in members(field.annotation)}


def _models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
