"""Many observations at once."""

from __future__ import annotations

import random

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics import exposition

from app.metrics.bulk import exemplify, observe_all

BUCKETS = (0.1, 0.5, 2.5)


def histogram() -> tuple[Histogram, CollectorRegistry]:
    registry = CollectorRegistry()
    return Histogram("x", "", ["kind"], buckets=BUCKETS, registry=registry).labels("k"), registry


def amounts() -> list[float]:
    """Below, on and above each bound, and many in between."""
    rng = random.Random(7)
    return [0.0, 0.1, 0.10001, 0.5, 2.5, 2.6, 1e9, *(rng.uniform(0, 3) for _ in range(500))]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_many_at_once_count_as_they_would_one_by_one(size: int) -> None:
    """Each bucket, the count and the sum are those of prometheus_client's own `observe`."""
    (ours, our_page), (theirs, their_page) = histogram(), histogram()
    numbers = amounts()
    for start in range(0, len(numbers), size):
        observe_all(ours, numbers[start : start + size])
    for number in numbers:
        theirs.observe(number)
    for family, expected in zip(our_page.collect(), their_page.collect(), strict=True):
        assert [sample.name for sample in family.samples if sample.name == "x_count"]
        for sample, other in zip(family.samples, expected.samples, strict=True):
            if sample.name != "x_created":
                assert (sample.name, sample.labels) == (other.name, other.labels)
                assert sample.value == pytest.approx(other.value, rel=1e-12)


@pytest.mark.parametrize("amount", [0.05, 0.5, 1.0, 9.0])
def test_an_example_stands_where_the_library_puts_it(amount: float) -> None:
    """At the bucket that the amount falls into, with its labels."""
    (ours, our_page), (theirs, their_page) = histogram(), histogram()
    observe_all(ours, [amount])
    exemplify(ours, amount, {"trace_id": "abc"}, 1.0)
    theirs.observe(amount, exemplar={"trace_id": "abc"})

    def examples(registry: CollectorRegistry) -> list[str]:
        page = exposition.generate_latest(registry).decode()  # type: ignore[no-untyped-call]
        return [line.rpartition(" ")[0] for line in page.splitlines() if "trace_id" in line]

    assert examples(our_page) == examples(their_page)
    assert len(examples(our_page)) == 1
    assert b"trace_id" not in generate_latest(our_page)
