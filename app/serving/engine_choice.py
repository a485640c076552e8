"""Which engine runs a version: all that may are checked with its golden examples, and the fastest is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.serving.golden import Expected, check_answers
from app.serving.runtimes.base import Runtime, RuntimeLoader
from app.serving.runtimes.loading import runtime_loader
from app.serving.tuning import Tuning
from app.settings import Settings
from app.store.manifest import Manifest, Precision


@dataclass(frozen=True)
class Candidate:
    """An engine that may run a version."""

    load: RuntimeLoader
    precision: Precision = "f32"


class EngineChoice:
    """Opens versions with the engine that suits them best."""

    def __init__(self, candidates: Callable[[Path, Manifest], Sequence[Candidate]], *, max_batch: int) -> None:
        """`candidates` says which engines may run a version; at least one."""
        self._candidates = candidates
        self._max_batch = max_batch

    @classmethod
    def of(cls, settings: Settings) -> EngineChoice:
        """What the settings choose."""
        return cls.only(runtime_loader(settings.runtime), max_batch=settings.max_batch)

    @classmethod
    def only(cls, load: RuntimeLoader, *, max_batch: int = 32) -> EngineChoice:
        """One engine, which is not timed but for the replay of the golden examples."""
        return cls(lambda *_: [Candidate(load)], max_batch=max_batch)

    def open(
        self, folder: Path, manifest: Manifest, expected: Expected, *, lanes: int, threads: int, decode_seconds: float
    ) -> tuple[Runtime, Tuning]:
        """Open a version with the engine that suits it best, warm and checked.

        Raises:
            VersionRefused: no engine can run it, or its answers are not those of the golden examples.
        """
        candidate = self._candidates(folder, manifest)[0]
        runtime = candidate.load(folder, manifest, lanes=lanes, threads=threads)
        try:
            begin = time.perf_counter()
            check_answers(runtime, manifest, expected)
            seconds = (time.perf_counter() - begin) / (1 + len(expected.images))
        except BaseException:
            runtime.close()
            raise
        tuning = Tuning(runtime.name, candidate.precision, self._max_batch, seconds, seconds, decode_seconds)
        return runtime, tuning
