"""How many images are let in, and when to come back."""

from __future__ import annotations

import pytest

from app.errors import Overloaded
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


def test_the_time_to_come_back_follows_the_rate_of_answers(metrics: Metrics, clock: Clock) -> None:
    """Ten images a second, and twenty in the queue: two seconds."""
    places = Admission(20, metrics)
    for _ in range(20):
        with places.places(1):
            pass
        clock.now += 0.1
    with places.places(20), pytest.raises(Overloaded, match="20 of 20 images") as full, places.places(1):
        pass
    assert full.value.retry_after == pytest.approx(2)


def test_without_answers_lately_the_time_is_a_guess(metrics: Metrics, clock: Clock) -> None:
    """What was answered long ago says nothing; and no wait is longer than a minute."""
    places = Admission(1000, metrics)
    with places.places(1):
        pass
    clock.now += 60
    with places.places(1000):
        assert places.retry_after() == 1
    clock.now += 4.9
    with places.places(1):
        pass
    with places.places(1000):
        assert places.retry_after() == pytest.approx(1000 * 4.9 / 1001)
    clock.now += 2
    with places.places(1000):
        assert places.retry_after() <= 60


def test_places_come_back_when_the_block_ends_with_an_error(metrics: Metrics) -> None:
    """Or else the service would fill up for good."""
    places = Admission(1, metrics)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), places.places(1):
            raise ZeroDivisionError
    with places.places(1), pytest.raises(Overloaded), places.places(1):
        pass
