"""When to come back, and how many cores there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import Overloaded
from app.metrics import Metrics
from app.serving import admission
from app.serving.admission import Admission
from app.serving.cores import available_cores


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


@pytest.mark.parametrize(
    ("quota", "most"), [("max 100000", 10_000), ("150000 100000", 2), ("10000 100000", 1), ("?", 10_000)]
)
def test_a_containers_quota_bounds_the_cores(tmp_path: Path, quota: str, most: int) -> None:
    """A container that may use a core and a half on a machine of 64 has no use for 64 threads."""
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    everything = available_cores(tmp_path / "absent")
    assert available_cores(file) == min(everything, most) >= 1
