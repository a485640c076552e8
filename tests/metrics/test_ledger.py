"""Numbers on their way into a metric."""

from __future__ import annotations

from app.metrics.ledger import Ledger


def test_what_was_noted_is_taken_once_and_in_order() -> None:
    """By series; a series with nothing new is not there."""
    ledger: Ledger[str] = Ledger(lambda: None)
    ledger.note("a", 1)
    ledger.note("b", 2)
    ledger.note("a", 3)
    assert ledger.take() == {"a": [1, 3], "b": [2]}
    ledger.note("b", 4)
    assert ledger.take() == {"b": [4]}
    assert ledger.take() == {}


def test_memory_is_bounded_when_nobody_takes() -> None:
    """Whoever notes one too many has all taken."""
    taken: list[int] = []
    ledger: Ledger[str] = Ledger(lambda: taken.append(sum(len(numbers) for numbers in ledger.take().values())))
    ledger.note("b", 1)
    for number in range(100_000):
        ledger.note("a", number)
    assert max(taken) <= 10_000
    assert sum(taken) + sum(len(numbers) for numbers in ledger.take().values()) == 100_001
