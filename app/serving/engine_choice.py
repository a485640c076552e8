"""Which engine runs a version: all that may are checked with its golden examples, and the fastest is kept."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from app.cores import available_cores
from app.errors import InferenceFailed, NotReady, VersionRefused
from app.serving.candidates import Candidate, Candidates, candidates, circumstances
from app.serving.golden import Expected, check_answers
from app.serving.likeness import Kind, kind_of
from app.serving.preparation import Preparation
from app.serving.processor import processor
from app.serving.runtimes.base import Runtime, RuntimeLoader
from app.serving.runtimes.loading import load_fake
from app.serving.tuning import Tuning, compare_alone, fastest, measure, time_one
from app.serving.tuning_cache import Choice, TuningCache
from app.settings import Settings
from app.store.manifest import Manifest

# A model on all threads besides that of the lanes costs memory: it is kept where a lone image gains this much by it.
_WORTH_IT = 1.2
# Between the steps of a load, of 20 to 100 ms each, in which what has queued meanwhile is answered.
_BREATH = 0.1

Groups = Sequence[Sequence[Candidate]]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opening:
    """A version to be opened, and what may be used for it."""

    folder: Path
    manifest: Manifest
    expected: Expected
    lanes: int
    """Calls of the engine that run at a time."""
    threads: int
    """Threads that the engine may use in all."""
    decode_seconds: float
    """What decoding a golden image took, on average."""
    beside: bool = False
    """Whether others are being answered meanwhile, who shall not feel it."""

    def load(self, load: RuntimeLoader) -> Runtime:
        return load(self.folder, self.manifest, lanes=self.lanes, threads=self.threads)

    def check(self, runtime: Runtime, candidate: Candidate) -> None:
        """Replay the golden examples, which also warms the engine up; closes it where they fail."""
        try:
            check_answers(runtime, self.manifest, self.expected, precision=candidate.precision)
        except BaseException:
            runtime.close()
            raise


@dataclass(frozen=True)
class _Case:
    """An opening, with what a choice for it depends on."""

    opening: Opening
    groups: Groups
    kind: Kind
    facts: dict[str, str | int]


@dataclass(frozen=True)
class _Opened:
    candidate: Candidate
    runtime: Runtime


class EngineChoice:
    """Opens versions with the engine that suits them best."""

    def __init__(
        self,
        candidates: Candidates,
        *,
        max_batch: int,
        timed: bool = True,
        cache: TuningCache | None = None,
        circumstances: Mapping[str, str | int] | None = None,
        preparation: Preparation | None = None,
    ) -> None:
        """Nothing is opened yet.

        Args:
            candidates: the engines that may run a version.
            max_batch: most images in a call.
            timed: False: the first candidate that passes its checks is taken; only these are timed.
            cache: where choices are kept.
            circumstances: settings and software that a choice in the cache holds for.
            preparation: fills the cache aside, for versions that are opened beside others.
        """
        self._candidates = candidates
        self._max_batch = max_batch
        self._timed = timed
        self._cache = cache
        self._circumstances = dict(circumstances or {})
        self._preparation = preparation
        self._stopping = threading.Event()

    @classmethod
    def of(cls, settings: Settings) -> EngineChoice:
        """What the settings choose."""
        if settings.runtime == "fake":
            return cls.only(load_fake, max_batch=settings.max_batch)
        if settings.cache is not None and not settings.cache.parent.is_dir():
            _log.warning(
                "FOVEA_CACHE is %s, but there is no folder %s: nothing is kept, and every start times and compiles "
                "the models anew. Make that folder.",
                *(settings.cache, settings.cache.parent),
            )
        return cls(
            candidates(settings),
            max_batch=settings.max_batch,
            cache=TuningCache(settings.cache_folder / "engines"),
            circumstances=circumstances(settings),
            preparation=Preparation(settings),
        )

    @classmethod
    def only(cls, load: RuntimeLoader, *, max_batch: int = 32) -> EngineChoice:
        """One engine, which is not timed but for the replay of the golden examples."""
        return cls(lambda _: [[Candidate("", load)]], max_batch=max_batch, timed=False)

    def open(self, opening: Opening) -> tuple[Runtime, Tuning]:
        """Open a version with the engine that suits it best, warm and checked.

        The first time that its kind is opened on this kind of processor the engines are timed; from then on the cache
        knows. Beside others that, and compiling, is done by a process aside.

        Raises:
            VersionRefused: no engine can run it, or its answers are not those of the golden examples.
            NotReady: it was broken off by `stop`.
        """
        if not self._timed:
            return self._take_first(opening, self._candidates(opening.manifest))
        case = self._case(opening)
        self._prepare_aside(case)
        known = self._known(case)
        if (opened := self._reopen(case, known)) is not None:
            return opened
        with self._turn():
            # Another worker may have measured in the meantime; what did not do before does not do now.
            again = self._known(case)
            return (self._reopen(case, again) if again != known else None) or self._choose(case)

    def prepare(self, opening: Opening) -> None:
        """Fill the cache, for a process that waits for it. To be called in a process that does nothing else.

        Raises:
            VersionRefused: as of `open`.
        """
        case = self._case(opening)
        # The seconds of the processor: those on the wall are long where others have it first.
        runtime, _ = self._reopen(case, self._known(case)) or self._choose(case, clock=time.process_time)
        runtime.close()

    def stop(self) -> None:
        """Break off what is done aside, and begin nothing that takes long; to be called before waiting for the calls of
        `open` that wait for it, here or in another process: they raise NotReady.
        """
        self._stopping.set()
        if self._preparation is not None:
            self._preparation.stop()

    def _case(self, opening: Opening) -> _Case:
        groups = self._candidates(opening.manifest)
        kind = processor()
        facts = {
            **self._circumstances,
            "processor": kind.name,
            "processor_key": kind.key,
            "cores": available_cores(),
            "lanes": opening.lanes,
            "threads": opening.threads,
            "max_batch": self._max_batch,
            "candidates": "; ".join(", ".join(each.name for each in group) for group in groups),
        }
        return _Case(opening, groups, kind_of(opening.folder, opening.manifest), facts)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        with nullcontext() if self._cache is None else self._cache.turn(self._stopping):
            if self._stopping.is_set():
                raise NotReady("The service is shutting down.")
            yield

    def _prepare_aside(self, case: _Case) -> None:
        """Have a process fill the cache, unless it is filled, or nobody would feel it if it were done here."""
        opening = case.opening
        if self._preparation is None or not opening.beside or self._is_prepared(case):
            return
        # Nothing would come back from there.
        if self._cache is None or not self._cache.usable() or not all(each.keeps() for each in chain(*case.groups)):
            return
        with self._turn():
            if not self._is_prepared(case):
                self._preparation.run(opening.folder, lanes=opening.lanes, threads=opening.threads)

    def _is_prepared(self, case: _Case) -> bool:
        """Whether the version can be opened without timing or compiling anything."""
        known = self._known(case)
        if known is None:
            return False
        choice, candidate = known
        opening = case.opening
        return candidate.compiled is None or candidate.compiled(
            opening.folder, opening.manifest, lanes=opening.lanes, threads=opening.threads, wide=choice.wide
        )

    def _known(self, case: _Case) -> tuple[Choice, Candidate] | None:
        """What was chosen before, if it holds here."""
        choice = self._cache.load(case.kind, case.facts) if self._cache is not None else None
        if choice is None or (choice.provisional and not case.opening.beside):
            return None
        candidate = next((each for group in case.groups for each in group if each.name == choice.engine), None)
        return None if candidate is None else (choice, candidate)

    def _reopen(self, case: _Case, known: tuple[Choice, Candidate] | None) -> tuple[Runtime, Tuning] | None:
        """Open with the engine that was chosen before; None if none was, or if it does not do any more."""
        if known is None:
            return None
        opening, (choice, candidate) = case.opening, known
        try:
            runtime = opening.load((candidate.wide if choice.wide else None) or candidate.load)
            breathe(beside=opening.beside)
            opening.check(runtime, candidate)
        except VersionRefused as refusal:
            _log.warning("%s was chosen before, but cannot be used now: %s", candidate.name, refusal)
            return None
        return runtime, choice.tuning(decode_seconds=opening.decode_seconds)

    def _choose(self, case: _Case, *, clock: Callable[[], float] | None = None) -> tuple[Runtime, Tuning]:
        """Check the candidates, time them, keep the fastest, and note it in the cache."""
        opening = case.opening
        opened, wrong = self._open_all(opening, case.groups)
        with ExitStack() as closing:
            for each in opened:
                closing.callback(each.runtime.close)
            try:
                runtimes = {each.candidate.name: each.runtime for each in opened}
                # On several threads the seconds of the processor are not those that an image takes.
                clock = clock if opening.threads <= opening.lanes else None
                speeds = measure(runtimes, opening.expected.images, max_batch=self._max_batch, clock=clock)
                name = fastest(speeds)
                winner = next(each for each in opened if each.candidate.name == name)
                wide, lone_seconds = None, speeds[name].lone_seconds
                if not opening.beside:  # what all threads give cannot be told while others use them
                    wide, lone_seconds = _widen(opening, winner, lone_seconds)
            except InferenceFailed as error:
                raise VersionRefused(f"it fails while it is timed. {error}") from error
            kept = wide or winner.runtime
            closing.pop_all()
        for each in opened:
            if each.runtime is not kept:
                each.runtime.close()
        choice = Choice(
            circumstances=case.facts,
            engine=name,
            precision=winner.candidate.precision,
            wide=wide is not None,
            best_batch=speeds[name].best_batch,
            seconds_per_image=speeds[name].seconds_per_image,
            lone_seconds=lone_seconds,
            candidates={each: 1 / speed.seconds_per_image for each, speed in speeds.items()},
            provisional=opening.beside,
        )
        if self._cache is not None:
            before = self._cache.load(case.kind, case.facts)
            # That this version fails its check on the engine says nothing about others of its kind, for which it holds.
            if before is None or before.engine not in wrong:
                self._cache.store(case.kind, choice)
        rates = ", ".join(f"{each} {rate:,.0f}/s" for each, rate in choice.candidates.items())
        _log.info("timed the engines for %s on one lane: %s; took %s", opening.manifest.model, rates, name)
        return kept, choice.tuning(decode_seconds=opening.decode_seconds)

    def _open_all(self, opening: Opening, groups: Groups) -> tuple[list[_Opened], set[str]]:
        """Open and check the candidates of the first group of which any can read the graph.

        Returns them, and the names of those that answer otherwise than the trainer did.

        Raises:
            VersionRefused: there is none, or all that can answer otherwise than the trainer did.
        """
        unread: list[VersionRefused] = []
        for group in groups:
            wrong: dict[str, VersionRefused] = {}
            with ExitStack() as closing:
                opened = []
                for candidate in group:
                    try:
                        runtime = opening.load(candidate.load)
                    except VersionRefused as refusal:
                        unread.append(refusal)
                        continue
                    try:
                        opening.check(runtime, candidate)
                    except VersionRefused as refusal:
                        _log.warning("%s: %s does not do: %s", opening.folder, candidate.name, refusal)
                        wrong[candidate.name] = refusal
                        continue
                    closing.callback(runtime.close)
                    opened.append(_Opened(candidate, runtime))
                closing.pop_all()
            if opened or wrong:
                for reason in unread:
                    _log.warning("%s: %s", opening.folder, reason)
            if opened:
                return opened, set(wrong)
            if wrong:
                raise next(iter(wrong.values()))
        raise VersionRefused(" ".join(map(str, unread))) from unread[0]

    def _take_first(self, opening: Opening, groups: Groups) -> tuple[Runtime, Tuning]:
        (first, *_), _ = self._open_all(opening, groups)
        seconds = time_one(first.runtime, opening.expected.images[:1])
        tuning = Tuning(
            engine=first.runtime.name,
            precision=first.candidate.precision,
            best_batch=self._max_batch,
            seconds_per_image=seconds,
            lone_seconds=seconds,
            decode_seconds=opening.decode_seconds,
        )
        return first.runtime, tuning


def breathe(*, beside: bool) -> None:
    """Leave the cores to those who are answered, if there are any: one long load would have them all queue."""
    if beside:
        time.sleep(_BREATH)


def _widen(opening: Opening, winner: _Opened, lone_seconds: float) -> tuple[Runtime | None, float]:
    """The winner with a model on all threads beside the lanes', where a lone image gains enough by it.

    Returns None where it does not; and the seconds of a lone image.
    """
    candidate = winner.candidate
    if candidate.wide is None or opening.threads // opening.lanes >= opening.threads:
        return None, lone_seconds
    with ExitStack() as closing:
        try:
            runtime = opening.load(candidate.wide)
            opening.check(runtime, candidate)
            closing.callback(runtime.close)
            lane, alone = compare_alone(winner.runtime, runtime, opening.expected.images[:1])
        except (VersionRefused, InferenceFailed) as error:
            # It would only have been a gain: without it the version is served as well.
            _log.warning("%s: %s on all threads does not do: %s", opening.folder, candidate.name, error)
            return None, lone_seconds
        if lane < _WORTH_IT * alone:
            return None, lone_seconds
        closing.pop_all()
    return runtime, alone
