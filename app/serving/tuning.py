"""What was measured of a version when it was loaded: which engine runs it, and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.store.manifest import Precision

BATCHES = (1, 2, 4, 8, 16, 32)
"""Sizes of the micro-batches that are timed."""


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
