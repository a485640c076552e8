"""How many images are let in, who is turned away at the door, and when to come back."""

from __future__ import annotations

import pytest

from app.errors import InvalidRequest, Overloaded
from app.metrics import Metrics
from app.serving import admission
from app.serving.admission import Admission


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(admission, "time", clock)
    return clock


def work(door: Admission, clock: Clock, *, seconds: float, rate: int, waiting: int = 8) -> None:
    """Have `waiting` images inside all the time, of which `rate` a second are answered."""
    with door.enter(waiting):
        for _ in range(round(seconds * rate)):
            with door.enter(1):
                clock.now += 1 / rate
        clock.now += waiting / rate


def test_the_time_to_come_back_follows_the_rate_of_answers(metrics: Metrics, clock: Clock) -> None:
    """Ten images a second, and twenty in the queue: two seconds."""
    door = Admission(20, metrics)
    work(door, clock, seconds=4, rate=10)
    with door.enter(20), pytest.raises(Overloaded, match="20 of 20 images") as full:
        door.check()
    assert full.value.retry_after == pytest.approx(2)


def test_the_rate_follows_the_load(metrics: Metrics, clock: Clock) -> None:
    """What was answered several seconds of work ago is forgotten, and idle time does not count as work."""
    door = Admission(1000, metrics)
    work(door, clock, seconds=10, rate=10)
    clock.now += 3600
    work(door, clock, seconds=10, rate=100)
    with door.enter(100):
        assert door.retry_after() == pytest.approx(1, rel=0.1)


def test_a_quiet_house_says_nothing_of_its_capacity(metrics: Metrics, clock: Clock) -> None:
    """Few answers while little was asked are no sign of being slow; the time to come back is a guess then."""
    door = Admission(1000, metrics, saturated=4)
    for _ in range(100):
        with door.enter(1):
            clock.now += 0.5
    with door.enter(1000, deadline=clock.now + 0.1):
        assert door.retry_after() == 1


def test_who_would_be_answered_too_late_is_turned_away(metrics: Metrics, clock: Clock) -> None:
    """With ten answers a second and ten before it, half a second is too little and two are enough."""
    door = Admission(100, metrics)
    work(door, clock, seconds=4, rate=10)
    with door.enter(10):
        with pytest.raises(Overloaded, match=r"would take 1\.1 s, with 10 images before it, .* allows 0\.5 s"):
            door.check(deadline=clock.now + 0.5)
        door.check(deadline=clock.now + 2)
        door.check()


def test_nobody_is_turned_away_from_an_empty_house(metrics: Metrics, clock: Clock) -> None:
    """However slow it was when it was last at work: or else it would never be seen to have become faster."""
    door = Admission(100, metrics, saturated=4)
    work(door, clock, seconds=30, rate=1)
    with door.enter(3):
        door.check(deadline=clock.now + 0.1)


def test_looking_at_the_door_takes_no_place(metrics: Metrics) -> None:
    """A client that is slow in sending its image keeps nobody out."""
    door = Admission(1, metrics)
    door.check()
    door.check()
    with door.enter(1), pytest.raises(Overloaded):
        door.check()


def test_more_than_ever_fit_are_invalid(metrics: Metrics) -> None:
    """There is no use in trying again."""
    with pytest.raises(InvalidRequest, match="3 images in one request; at most 2"):
        Admission(2, metrics).check(3)


def test_places_come_back_when_the_block_ends_with_an_error(metrics: Metrics) -> None:
    """Or else the service would fill up for good."""
    door = Admission(1, metrics)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), door.enter(1):
            raise ZeroDivisionError
    with door.enter(1), pytest.raises(Overloaded):
        door.enter(1)
