"""Tensors that clients send."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from app.errors import InvalidRequest
from app.serving.tensors import Tensor, fit_input
from tests.serving.versions import SCALED, SIZE, manifest

SHAPE = (SIZE, SIZE, 1)


def test_what_fits_is_not_copied() -> None:
    """An array of the right type is handed on as it is."""
    values = np.ones(SHAPE, np.uint8)
    assert fit_input(Tensor(values, typed=True), manifest()) is values
    scaled = np.ones(SHAPE, np.float32)
    assert fit_input(Tensor(scaled, typed=True), manifest(**SCALED)) is scaled


def test_numbers_of_no_type_need_only_fit() -> None:
    """JSON has but one kind of number."""
    taken = fit_input(Tensor(np.full(SHAPE, 255.0), typed=False), manifest())
    assert taken.dtype == np.uint8
    assert int(taken.max()) == 255
    assert fit_input(Tensor(np.ones(SHAPE, np.int64), typed=False), manifest(**SCALED)).dtype == np.float32


@pytest.mark.parametrize(
    ("values", "typed", "changes", "said"),
    [
        (np.zeros((SIZE, SIZE), np.uint8), True, {}, r"the shape \[28, 28\]; shapes takes uint8 \[28, 28, 1\]"),
        (np.zeros(SHAPE, np.float32), True, {}, "is float32; shapes takes uint8"),
        (np.full(SHAPE, 0.5), False, {}, "other numbers than whole ones from 0 to 255"),
        (np.full(SHAPE, 256.0), False, {}, "other numbers than whole ones from 0 to 255"),
        (np.full(SHAPE, 1e39), False, SCALED, "NaN, infinity, or too large"),
        (np.full(SHAPE, np.nan, np.float32), True, SCALED, "NaN, infinity, or too large"),
    ],
    ids=["shape", "type", "fraction", "range", "too large", "not a number"],
)
def test_what_does_not_fit_is_refused_with_what_does(
    values: np.ndarray[Any, Any], typed: bool, changes: dict[str, Any], said: str
) -> None:
    """In the client's own terms: the shape and type for each image."""
    with pytest.raises(InvalidRequest, match=said):
        fit_input(Tensor(values, typed=typed), manifest(**changes))
