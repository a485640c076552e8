"""How many images are let in."""

from __future__ import annotations

import pytest

from app.errors import InvalidRequest, Overloaded
from app.metrics import Metrics
from app.serving.admission import Admission


def test_a_full_house_says_when_there_will_be_room(metrics: Metrics) -> None:
    """One place too few is enough to be turned away."""
    door = Admission(20, metrics, lambda: 2.5)
    with door.enter(18):
        door.check(2)
        with pytest.raises(Overloaded, match=r"18 of 20 images .* in 2\.5 s") as full:
            door.check(3)
    assert full.value.retry_after == 2.5


def test_looking_at_the_door_takes_no_place(metrics: Metrics) -> None:
    """A client that is slow in sending its image keeps nobody out."""
    door = Admission(1, metrics, lambda: 1)
    door.check()
    door.check()
    with door.enter(1), pytest.raises(Overloaded):
        door.check()


def test_more_than_ever_fit_are_invalid(metrics: Metrics) -> None:
    """There is no use in trying again."""
    with pytest.raises(InvalidRequest, match="3 images in one request; at most 2"):
        Admission(2, metrics, lambda: 1).check(3)


def test_places_come_back_when_the_block_ends_with_an_error(metrics: Metrics) -> None:
    """Or else the service would fill up for good."""
    door = Admission(1, metrics, lambda: 1)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), door.enter(1):
            raise ZeroDivisionError
    with door.enter(1), pytest.raises(Overloaded):
        door.enter(1)
