"""Medians with their spread, and how they are written."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """The median of what was measured in the rounds, with the least and the most."""

    median: float
    low: float
    high: float

    @property
    def spread(self) -> float:
        """Half of the distance between the least and the most, as a share of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0

    def __str__(self) -> str:
        return f"{number(self.median)} ±{self.spread:.0%}"


def figure(values: Iterable[float]) -> Figure | None:
    """The figure of some values; None of none."""
    found = list(values)
    return Figure(statistics.median(found), min(found), max(found)) if found else None


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least this share of the (sorted) values do not exceed; 0.0 of none."""
    if not values:
        return 0.0
    # Rounded, since 0.99 * 100 is a little more than 99.
    rank = -int(-round(share * len(values), 9) // 1)
    return values[max(0, min(len(values), rank) - 1)]


def number(value: float) -> str:
    """With three digits that count at least: 12,345 or 123 or 12.3 or 1.23."""
    size = abs(value)
    return f"{value:,.{0 if size >= 99.5 else 1 if size >= 9.95 else 2}f}"


def milliseconds(seconds: float) -> str:
    return number(seconds * 1000)


def megabytes(size: float) -> str:
    return number(size / 1e6)
