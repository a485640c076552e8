"""What is measured of a version when it is loaded: how fast each engine is on its golden examples."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from app.preprocessing import UInt8Array
from app.serving.runtimes.base import Runtime
from app.store.manifest import Precision

BATCHES = (1, 2, 4, 8, 16, 32)
"""Sizes of the micro-batches that are timed."""

# A batch that would take longer is not tried: images in it wait for each other, and large models gain nothing by it.
_LONGEST_CALL = 0.025
# Rounds go over all engines and batches in turn, so that what else the machine does meets all alike. The first is the
# warm-up of each size of a batch; the least time of all rounds counts.
_LEAST_ROUNDS, _MOST_ROUNDS = 3, 12
_BUDGET = 0.15
# Pairs of calls that compare a lane with all threads, each call after a pause.
_LEAST_PAIRS, _MOST_PAIRS = 5, 25
_PAUSE = 0.002
# Of an engine that is not compared with others.
_FEW_CALLS = 3
# A smaller batch that gives nearly as many images a second is better: its images wait less for each other.
_AS_GOOD = 1.03


@dataclass(frozen=True)
class Tuning:
    """How a version runs on this processor, measured on its golden examples."""

    engine: str
    """Engine and precision, as `Runtime.name` has it: "openvino-f32"."""
    precision: Precision
    best_batch: int
    """Images in a call that give the most images a second on one lane; at most `FOVEA_MAX_BATCH`."""
    seconds_per_image: float
    """Of one lane with batches of `best_batch`."""
    lone_seconds: float
    """Of one image alone in the process."""
    decode_seconds: float
    """Decoding a golden image on one thread, on average."""
    candidates: Mapping[str, float] = field(default_factory=dict)
    """Images a second of one lane that each engine gave at its best batch; those that were not timed are missing."""


@dataclass(frozen=True)
class Speed:
    """How fast an engine is on one lane."""

    best_batch: int
    seconds_per_image: float
    """With batches of `best_batch`."""
    lone_seconds: float
    """Of one image."""


def measure(
    runtimes: Mapping[str, Runtime],
    images: UInt8Array,
    *,
    max_batch: int,
    clock: Callable[[], float] | None = None,
) -> dict[str, Speed]:
    """Time engines against each other on one lane; takes some 0.2 s, more for large models.

    Args:
        runtimes: engines by name, checked already.
        images: uint8 [n, height, width, channels], at least one; larger batches repeat them.
        clock: seconds; None: those of the wall.

    Raises:
        InferenceFailed: an engine failed.
    """
    batches = [images[np.arange(size) % len(images)] for size in BATCHES if size <= max_batch]
    least: dict[str, dict[int, float]] = {name: {} for name in runtimes}
    clock = clock or time.perf_counter
    begin = clock()
    for finished in range(1, _MOST_ROUNDS + 1):
        for batch in batches:
            size = len(batch)
            for name, runtime in runtimes.items():
                smaller = least[name].get(size // 2, 0.0) if size > 1 else 0.0
                if 2 * smaller <= _LONGEST_CALL and (size == 1 or smaller):
                    least[name][size] = min(least[name].get(size, np.inf), _seconds(runtime, batch, clock))
        if finished >= _LEAST_ROUNDS and clock() - begin > _BUDGET:
            break
    return {name: _speed(seconds) for name, seconds in least.items()}


def fastest(speeds: Mapping[str, Speed]) -> str:
    """The engine to take: of those within a tenth of the most images a second, the one that answers one soonest."""
    best = min(speed.seconds_per_image for speed in speeds.values())
    near = [name for name, speed in speeds.items() if speed.seconds_per_image <= 1.1 * best]
    return min(near, key=lambda name: speeds[name].lone_seconds)


def compare_alone(narrow: Runtime, wide: Runtime, image: UInt8Array) -> tuple[float, float]:
    """Seconds that one image, uint8 [1, height, width, channels], takes on a lane of `narrow`, and alone on `wide`.

    Lone requests come after a pause, in which an engine's threads have gone to sleep: waking them can cost more than
    they gain. So there is one before each call here, and the median counts.
    """
    lane: list[float] = []
    alone: list[float] = []
    begin = time.perf_counter()
    for finished in range(1, _MOST_PAIRS + 1):
        for runtime, seconds in ((narrow, lane), (wide, alone)):
            time.sleep(_PAUSE)
            seconds.append(_seconds(runtime, image, time.perf_counter, alone=True))
        if finished >= _LEAST_PAIRS and time.perf_counter() - begin > _BUDGET:
            break
    return median(lane), median(alone)


def time_one(runtime: Runtime, image: UInt8Array) -> float:
    """Seconds that one image, uint8 [1, height, width, channels], takes in an engine that is warm: the shortest of a
    few calls, since the machine may be busy."""
    return min(_seconds(runtime, image, time.perf_counter) for _ in range(_FEW_CALLS))


def _speed(seconds: Mapping[int, float]) -> Speed:
    """From the seconds of a call, by the size of its batch."""
    best = min(value / size for size, value in seconds.items())
    size = min(size for size, value in seconds.items() if value / size <= _AS_GOOD * best)
    return Speed(size, seconds[size] / size, seconds[1])


def _seconds(runtime: Runtime, batch: UInt8Array, clock: Callable[[], float], *, alone: bool = False) -> float:
    begin = clock()
    runtime.predict(batch, alone=alone)
    return clock() - begin
