"""How long who comes now will have to wait."""

from __future__ import annotations

import pytest

from app.serving import pace
from app.serving.pace import Pace


class Clock:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "time", clock)
    return clock


def work(engine: Pace, clock: Clock, *, seconds: float, rate: int, given_up: int = 0) -> None:
    """Have eight images inside all the time; `rate` a second are answered, and `given_up` of them besides."""
    engine.come(8)
    for _ in range(round(seconds * rate)):
        clock.now += 1 / rate
        engine.come(1 + given_up)
        engine.go(1, answered=True)
        engine.go(given_up, answered=False)
    clock.now += 8 / rate
    engine.go(8, answered=True)


def test_the_wait_follows_the_rate_of_answers(clock: Clock) -> None:
    """Ten images a second, and twenty inside: two seconds; and ten more: three."""
    engine = Pace(saturated=4)
    work(engine, clock, seconds=4, rate=10)
    engine.come(20)
    assert engine.wait() == pytest.approx(2)
    assert engine.wait(10) == pytest.approx(3)


def test_the_rate_follows_the_load(clock: Clock) -> None:
    """What was answered several seconds of work ago is forgotten, and idle time does not count as work."""
    engine = Pace(saturated=4)
    work(engine, clock, seconds=10, rate=10)
    clock.now += 3600
    work(engine, clock, seconds=10, rate=100)
    engine.come(100)
    assert engine.wait() == pytest.approx(1, rel=0.1)


def test_what_was_given_up_is_no_answer(clock: Clock) -> None:
    """Or else an overloaded engine would look the faster the more it disappoints."""
    engine = Pace(saturated=4)
    work(engine, clock, seconds=10, rate=10, given_up=5)
    engine.come(20)
    assert engine.wait() == pytest.approx(2, rel=0.1)


def test_few_answers_while_little_was_asked_are_no_sign_of_being_slow(clock: Clock) -> None:
    """Nothing is known then."""
    engine = Pace(saturated=4)
    for _ in range(100):
        engine.come(1)
        clock.now += 0.5
        engine.go(1, answered=True)
    engine.come(1000)
    assert engine.wait() is None


def test_nobody_waits_where_there_is_little_to_do(clock: Clock) -> None:
    """However slow it was when it was last at work: or else it would never be seen to have become faster."""
    engine = Pace(saturated=4)
    work(engine, clock, seconds=30, rate=1)
    engine.come(3)
    assert engine.wait(1) is None
    assert engine.wait(2) == pytest.approx(5)


def test_until_enough_is_measured_the_expected_pace_holds(clock: Clock) -> None:
    """A crowd that comes before the first answers is not let in on trust."""
    engine = Pace(saturated=4, expected=0.1)
    engine.come(20)
    assert engine.wait() == pytest.approx(2)
    engine.go(20, answered=False)
    work(engine, clock, seconds=10, rate=100)
    engine.come(100)
    assert engine.wait() == pytest.approx(1, rel=0.1)
