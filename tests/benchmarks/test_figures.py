"""The arithmetic of the benchmarks: medians, percentiles, limits, and how long a recovery took."""

from __future__ import annotations

import pytest

from benchmarks.figures import Figure, figure, number, percentile
from benchmarks.limits import Parts
from benchmarks.outcomes import Window
from benchmarks.scenarios.overload import recovery


def test_figure_is_the_median_with_the_least_and_the_most() -> None:
    """One round that went wrong moves the spread and not the figure."""
    assert figure([100.0, 10.0, 110.0]) == Figure(100.0, 10.0, 110.0)
    assert str(figure([90.0, 100.0, 110.0])) == "100 ±10%"
    assert figure([]) is None


def test_percentile_is_a_value_that_was_measured() -> None:
    """Of a hundred values the 99th percentile is the 99th, and of one value it is that."""
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0
    assert percentile([], 0.99) == 0.0


@pytest.mark.parametrize(
    ("value", "text"), [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.0, "0.00")]
)
def test_numbers_are_written_with_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def _parts() -> Parts:
    return Parts(
        decode={"one thread": 1000.0, "a thread a core": 1100.0, "a process a core": 1600.0},
        engine={
            "OpenVINO f32, 1 stream, batch 1": 500.0,
            "OpenVINO f32, 2 streams, batch 1": 800.0,
            "OpenVINO f32, 2 streams, batch 8": 1000.0,
            "OpenVINO bf16, 1 stream, batch 1": 1000.0,
            "OpenVINO bf16, 2 streams, batch 8": 4000.0,
        },
        http={"bare ASGI": 4000.0, "FastAPI route": 500.0},
    )


def test_limit_is_the_cores_divided_by_what_an_image_takes_of_them() -> None:
    """With both cores at work decoding takes 1.25 ms of one, the engine 2 ms, HTTP 0.5 ms."""
    assert _parts().limit("f32", 2) == pytest.approx(2 / (0.00125 + 0.002 + 0.0005))
    assert _parts().limit("bf16", 2) == pytest.approx(2 / (0.00125 + 0.0005 + 0.0005))


def test_limit_of_many_images_pays_for_http_once() -> None:
    assert _parts().limit("f32", 2, 10) == pytest.approx(2 / (0.00125 + 0.002 + 0.00005))


def test_floor_of_one_image_is_that_of_a_single_stream() -> None:
    """More streams answer more images, but none of them sooner."""
    assert _parts().floor("f32") == pytest.approx(0.001 + 0.002)
    assert _parts().floor("bf16") == pytest.approx(0.001 + 0.001)


def test_a_processor_without_bf16_has_the_limit_of_f32() -> None:
    without = Parts(_parts().decode, {"OpenVINO f32, 1 stream, batch 1": 500.0}, _parts().http)
    assert without.limit("bf16", 2) == without.limit("f32", 2)
    assert without.floor("bf16") == without.floor("f32")


def _window(at: float, p99: float, rejected: int = 0) -> Window:
    return Window(at=at, accepted=10, rejected=rejected, failed=0, p99=p99)


def test_recovery_ends_when_all_later_windows_are_as_before() -> None:
    """A window that looks normal between two that do not is no recovery."""
    windows = [_window(0, 0.1), _window(1, 0.9, 5), _window(2, 0.1), _window(3, 0.5), _window(4, 0.1), _window(5, 0.1)]
    assert recovery(windows, 1, 2) == 2.0
    assert recovery(windows[:2] + windows[4:], 1, 2) == 2.0


def test_no_recovery_is_said_so() -> None:
    assert recovery([_window(0, 0.1), _window(1, 0.9), _window(2, 0.1, rejected=1)], 1, 2) == -1.0
