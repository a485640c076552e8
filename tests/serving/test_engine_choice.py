"""The engine of a version: all that may are checked and timed once, and the fastest is kept and remembered."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest

from app.errors import ConfigurationError, InferenceFailed, NotReady, VersionRefused
from app.preprocessing import Float32Array
from app.serving import candidates as candidates_module
from app.serving import tuning as tuning_module
from app.serving.candidates import Candidate, candidates
from app.serving.engine_choice import EngineChoice, Opening
from app.serving.golden import read_expected
from app.serving.runtimes.base import Batch, Runtime
from app.serving.runtimes.fake import FakeRuntime
from app.serving.tuning_cache import TuningCache
from app.settings import Settings
from app.store.manifest import Manifest, PrecisionCheck
from app.store.registry import Registry
from tests.serving.versions import add_version, manifest


class Workshop:
    """Makes engines of known speed, and knows which were loaded and which are open."""

    def __init__(self) -> None:
        self.now = 0.0
        """What their clock says: it stands still unless one of them computes."""
        self.loaded: list[str] = []
        self.open: list[str] = []

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def candidate(self, name: str, *, wide: bool = False, **traits: Any) -> Candidate:
        """Its `seconds` are of an image, and `call` of a call besides; `alone`: of one image on all threads; `refusal`:
        why it cannot read the graph; `wrong`: answers otherwise than the trainer; `broken`: fails from the third call;
        `wide_traits`: what holds instead for the model on all threads.
        """
        wide_traits = traits | traits.pop("wide_traits", {})

        def load(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
            return self._make(name, manifest, traits)

        def load_wide(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
            return self._make(f"{name} wide", manifest, wide_traits)

        return Candidate(name, load, load_wide if wide else None)

    def _make(self, name: str, manifest: Manifest, traits: dict[str, Any]) -> Runtime:
        self.loaded.append(name)
        if (refusal := traits.get("refusal")) is not None:
            raise VersionRefused(refusal)
        self.open.append(name)
        return _Timed(self, name, manifest, traits)


class _Timed(FakeRuntime):
    def __init__(self, workshop: Workshop, name: str, manifest: Manifest, traits: dict[str, Any]) -> None:
        super().__init__(Path(), manifest, lanes=1, threads=1)
        self.name = name.removesuffix(" wide")
        self._wide = name.endswith(" wide")
        self._workshop, self._label, self._traits = workshop, name, traits
        self._calls = 0

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        self._calls += 1
        traits = self._traits
        if traits.get("broken") and self._calls > 2:
            raise InferenceFailed("out of luck.")
        seconds = traits["alone"] if alone and self._wide else len(batch) * traits.get("seconds", 0.0)
        self._workshop.now += seconds + traits.get("call", 0.0) or 1e-6
        answer = super().predict(batch)
        return answer[:, ::-1] if traits.get("wrong") else answer

    def close(self) -> None:
        self._workshop.open.remove(self._label)


@pytest.fixture
def workshop(monkeypatch: pytest.MonkeyPatch) -> Workshop:
    workshop = Workshop()
    clock = SimpleNamespace(perf_counter=lambda: workshop.now, sleep=workshop.sleep)
    monkeypatch.setattr(tuning_module, "time", clock)
    return workshop


@pytest.fixture
def opening(registry: Registry) -> Opening:
    """A version for the fake, on two lanes of one thread each."""
    version = add_version(registry)
    folder, document = registry.folder("shapes", version), registry.manifest("shapes", version)
    return Opening(folder, document, read_expected(folder, document), lanes=2, threads=2, decode_seconds=0.001)


def choose(groups: Sequence[Sequence[Candidate]], cache: Path | None = None, **arguments: Any) -> EngineChoice:
    tunings = TuningCache(cache) if cache is not None else None
    return EngineChoice(lambda _: groups, **({"max_batch": 4, "cache": tunings} | arguments))


def test_the_fastest_engine_is_kept_and_the_others_are_closed(workshop: Workshop, opening: Opening) -> None:
    """With what each gave, in images a second."""
    engines = [workshop.candidate("slow", seconds=0.004), workshop.candidate("fast", seconds=0.001)]
    runtime, tuning = choose([engines]).open(opening)
    assert (runtime.name, tuning.engine, workshop.open) == ("fast", "fast", ["fast"])
    assert tuning.candidates == pytest.approx({"slow": 250, "fast": 1000})
    assert tuning.seconds_per_image == tuning.lone_seconds == pytest.approx(0.001)
    assert tuning.decode_seconds == 0.001


def test_of_engines_as_fast_the_one_that_answers_a_lone_image_sooner_is_taken(
    workshop: Workshop, opening: Opening
) -> None:
    """Within a tenth, what a single request waits for decides."""
    late = workshop.candidate("late", call=0.008, seconds=0.002)
    soon, slow = workshop.candidate("soon", seconds=0.0043), workshop.candidate("slow", seconds=0.0045)
    assert choose([[late, soon]]).open(opening)[0].name == "soon"
    assert choose([[late, slow]]).open(opening)[0].name == "late"


def test_the_best_batch_is_the_smallest_that_gives_the_most(workshop: Workshop, opening: Opening) -> None:
    """Where a call has a price of its own, large ones; where it has none, single images."""
    priced = choose([[workshop.candidate("priced", call=0.004, seconds=0.0001)]]).open(opening)[1]
    plain = choose([[workshop.candidate("plain", seconds=0.004)]]).open(opening)[1]
    assert priced.best_batch == 4
    assert plain.best_batch == 1
    assert plain.lone_seconds == pytest.approx(0.004)


def test_batches_that_take_long_are_not_tried(workshop: Workshop, opening: Opening) -> None:
    """A large model must not make the start long; nor would its images gain by waiting for each other."""
    slow = workshop.candidate("large", seconds=0.015)
    choose([[slow]], max_batch=32).open(opening)
    assert workshop.now < 0.2


@pytest.mark.parametrize(("alone", "wide"), [(0.001, True), (0.0038, False)])
def test_a_second_model_for_lone_images_is_kept_only_where_it_is_clearly_faster(
    workshop: Workshop, opening: Opening, tmp_path: Path, alone: float, wide: bool
) -> None:
    """It costs memory; and the cache remembers which it was."""
    choice = choose([[workshop.candidate("engine", wide=True, seconds=0.004, alone=alone)]], tmp_path / "engines")
    _, tuning = choice.open(opening)
    assert workshop.open == (["engine wide"] if wide else ["engine"])
    assert tuning.lone_seconds == pytest.approx(alone if wide else 0.004)
    del workshop.loaded[:]
    choice.open(opening)
    assert workshop.loaded == (["engine wide"] if wide else ["engine"])


@pytest.mark.parametrize(
    "fault", [{"refusal": "No memory."}, {"wrong": True}, {"broken": True}], ids=lambda it: next(iter(it))
)
def test_a_second_model_that_fails_is_done_without(
    workshop: Workshop, opening: Opening, caplog: pytest.LogCaptureFixture, fault: dict[str, Any]
) -> None:
    """The version is sound: it is served on the lanes alone, and nothing of the other is left open."""
    engine = workshop.candidate("engine", wide=True, seconds=0.004, alone=0.001, wide_traits=fault)
    runtime, tuning = choose([[engine]]).open(opening)
    assert (runtime.name, workshop.open) == ("engine", ["engine"])
    assert tuning.lone_seconds == pytest.approx(0.004)
    assert "engine on all threads does not do" in caplog.text


def test_one_lane_with_all_threads_has_no_second_model(workshop: Workshop, opening: Opening) -> None:
    """It would be the same model twice."""
    choose([[workshop.candidate("engine", wide=True, seconds=0.004, alone=0.001)]]).open(replace(opening, lanes=1))
    assert workshop.loaded == ["engine"]


def test_an_engine_that_answers_otherwise_is_not_taken(
    workshop: Workshop, opening: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """However fast it is; the log says how far it was off."""
    engines = [workshop.candidate("wrong", wrong=True), workshop.candidate("right", seconds=0.004)]
    with caplog.at_level(logging.WARNING, "app"):
        runtime, _ = choose([engines]).open(opening)
    assert (runtime.name, workshop.open) == ("right", ["right"])
    assert "wrong does not do: its answer to the golden example" in caplog.text


def test_a_version_that_no_engine_answers_rightly_is_refused(workshop: Workshop, opening: Opening) -> None:
    """It is not handed to the fallback, which is for graphs that the others cannot read."""
    groups = [[workshop.candidate("wrong", wrong=True)], [workshop.candidate("fallback")]]
    with pytest.raises(VersionRefused, match="differs from the trainer's"):
        choose(groups).open(opening)
    assert (workshop.loaded, workshop.open) == (["wrong"], [])


def test_the_fallback_is_for_what_the_others_cannot_read(
    workshop: Workshop, opening: Opening, caplog: pytest.LogCaptureFixture
) -> None:
    """And only for that: it is not loaded otherwise. The log says why it was."""
    unable, able = workshop.candidate("unable", refusal="No such operation."), workshop.candidate("able")
    fallback = workshop.candidate("fallback")
    assert choose([[unable, able], [fallback]]).open(opening)[0].name == "able"
    assert "fallback" not in workshop.loaded
    with caplog.at_level(logging.WARNING, "app"):
        assert choose([[unable], [fallback]]).open(opening)[0].name == "fallback"
    assert "No such operation." in caplog.text


def test_where_no_engine_can_read_the_graph_all_reasons_are_given(workshop: Workshop, opening: Opening) -> None:
    """One after the other."""
    groups = [[workshop.candidate("one", refusal="First.")], [workshop.candidate("two", refusal="Second.")]]
    with pytest.raises(VersionRefused, match=r"^First\. Second\.$"):
        choose(groups).open(opening)


def test_an_engine_that_fails_while_it_is_timed_is_a_refusal_and_all_are_closed(
    workshop: Workshop, opening: Opening
) -> None:
    """Nothing is left open."""
    engines = [workshop.candidate("sound"), workshop.candidate("broken", broken=True)]
    with pytest.raises(VersionRefused, match="fails while it is timed"):
        choose([engines]).open(opening)
    assert workshop.open == []


def test_a_choice_is_made_once(workshop: Workshop, opening: Opening, tmp_path: Path) -> None:
    """The second time only the chosen engine is loaded, and nothing is timed."""
    engines = [workshop.candidate("slow", seconds=0.004), workshop.candidate("fast", seconds=0.001)]
    choice = choose([engines], tmp_path / "engines")
    first = choice.open(opening)[1]
    del workshop.loaded[:]
    runtime, again = choice.open(replace(opening, decode_seconds=0.002))
    assert (runtime.name, workshop.loaded) == ("fast", ["fast"])
    assert again == replace(first, decode_seconds=0.002)


@pytest.mark.parametrize(
    "change",
    [{"lanes": 1}, {"threads": 1}, {"max_batch": 2}, {"circumstances": {"openvino": "2027.0"}}],
    ids=lambda change: next(iter(change)),
)
def test_under_other_circumstances_it_is_made_anew(
    workshop: Workshop, opening: Opening, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Other lanes, threads, batches or software may make another engine the fastest."""
    engines = [workshop.candidate("one"), workshop.candidate("two")]
    choose([engines], tmp_path / "engines").open(opening)
    del workshop.loaded[:]
    other = {name: value for name, value in change.items() if name in ("lanes", "threads")}
    rest = {name: value for name, value in change.items() if name not in other}
    choose([engines], tmp_path / "engines", **rest).open(replace(opening, **other))
    assert workshop.loaded == ["one", "two"]


def test_a_network_that_was_trained_again_is_not_timed_again(
    workshop: Workshop, opening: Opening, registry: Registry, tmp_path: Path
) -> None:
    """Its weights say nothing about the speed; its golden examples are replayed, as at every load."""
    engines = [workshop.candidate("slow", seconds=0.004), workshop.candidate("fast", seconds=0.001)]
    choice = choose([engines], tmp_path / "engines")
    choice.open(opening)
    del workshop.loaded[:]
    again = another(opening, registry)
    assert choice.open(again)[0].name == "fast"
    assert workshop.loaded == ["fast"]
    reverse = replace(again, expected=replace(again.expected, probabilities=again.expected.probabilities[:, ::-1]))
    with pytest.raises(VersionRefused, match="differs from the trainer's"):
        choice.open(reverse)


def test_a_version_that_the_chosen_engine_answers_wrongly_changes_nothing_for_others_of_its_kind(
    workshop: Workshop, opening: Opening, tmp_path: Path
) -> None:
    """It has another engine; that one is not tried twice for it, and goes on being the choice."""
    slow = workshop.candidate("slow", seconds=0.004)
    sound = [workshop.candidate("fast", seconds=0.001), slow]
    choose([sound], tmp_path / "engines").open(opening)
    del workshop.loaded[:]
    odd = [workshop.candidate("fast", seconds=0.001, wrong=True), slow]
    assert choose([odd], tmp_path / "engines").open(opening)[0].name == "slow"
    assert workshop.loaded == ["fast", "fast", "slow"]
    del workshop.loaded[:]
    assert choose([sound], tmp_path / "engines").open(opening)[0].name == "fast"
    assert workshop.loaded == ["fast"]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_service_that_stops_does_not_wait_for_another_process_to_measure(
    workshop: Workshop, opening: Opening, tmp_path: Path
) -> None:
    """That can take half a minute."""
    choice = choose([[workshop.candidate("one")]], tmp_path / "engines")
    with ThreadPoolExecutor(1) as pool, TuningCache(tmp_path / "engines").turn(threading.Event()):
        loading = pool.submit(choice.open, opening)
        with pytest.raises(TimeoutError):
            loading.result(0.1)
        choice.stop()
        with pytest.raises(NotReady, match="shutting down"):
            loading.result(10)
    assert workshop.loaded == []


def test_another_network_is_timed_for_itself(
    workshop: Workshop, opening: Opening, registry: Registry, tmp_path: Path
) -> None:
    """Even of the same model."""
    choice = choose([[workshop.candidate("one"), workshop.candidate("two")]], tmp_path / "engines")
    choice.open(opening)
    del workshop.loaded[:]
    other = another(opening, registry)
    (other.folder / "saved_model.pb").write_bytes(b"a graph")
    choice.open(other)
    assert workshop.loaded == ["one", "two"]


class Aside:
    """Stands in for the process that prepares versions: times them with a choice of its own."""

    def __init__(self, opening: Opening, choice: EngineChoice | None = None) -> None:
        self.runs = 0
        self._opening, self._choice = opening, choice

    def run(self, folder: Path, *, lanes: int, threads: int) -> None:
        self.runs += 1
        assert (folder, lanes, threads) == (self._opening.folder, self._opening.lanes, self._opening.threads)
        if self._choice is not None:
            self._choice.prepare(self._opening)

    def stop(self) -> None: ...


def test_beside_others_a_version_is_timed_aside(workshop: Workshop, opening: Opening, tmp_path: Path) -> None:
    """Once for all of its kind; what is opened here is only what was chosen."""
    beside = replace(opening, beside=True)
    engines = [workshop.candidate("one", wide=True), workshop.candidate("wrong", wrong=True)]
    aside = Aside(beside, choose([engines], tmp_path / "engines"))
    choice = choose([engines], tmp_path / "engines", preparation=aside)
    for _ in range(2):
        del workshop.loaded[:]
        assert choice.open(beside)[0].name == "one"
    assert (aside.runs, workshop.loaded) == (1, ["one"])


def test_where_nobody_would_feel_it_a_version_is_timed_here(workshop: Workshop, opening: Opening) -> None:
    """At a start, which another process would only make longer."""
    aside = Aside(opening)
    choose([[workshop.candidate("one")]], preparation=aside).open(opening)
    assert aside.runs == 0


@pytest.mark.parametrize("lack", ["no folder", "choices are only read", "compiled models are only read"])
def test_without_a_cache_nothing_is_done_aside(
    workshop: Workshop, opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    """Nothing would come back from there."""
    aside = Aside(beside := replace(opening, beside=True))
    cache = tmp_path / "missing" / "cache" / "engines" if lack == "no folder" else tmp_path / "engines"
    if lack == "choices are only read":
        monkeypatch.setattr(os, "access", lambda *_: False)
    engine = replace(workshop.candidate("one"), keeps=lambda: lack != "compiled models are only read")
    assert choose([[engine]], cache, preparation=aside).open(beside)[0].name == "one"
    assert aside.runs == 0


def test_what_fails_aside_is_done_here(workshop: Workshop, opening: Opening, tmp_path: Path) -> None:
    """Slower for those who wait meanwhile, but done."""
    aside = Aside(beside := replace(opening, beside=True))
    engines = [workshop.candidate("slow", seconds=0.004), workshop.candidate("fast", seconds=0.001)]
    assert choose([engines], tmp_path / "engines", preparation=aside).open(beside)[0].name == "fast"
    assert aside.runs == 1


def test_a_choice_that_was_made_beside_others_holds_until_all_is_calm(
    workshop: Workshop, opening: Opening, tmp_path: Path
) -> None:
    """What all threads give a lone image, for one, cannot be told while others use them."""
    engines = [workshop.candidate("one", wide=True, seconds=0.004, alone=0.001), workshop.candidate("two", seconds=1)]
    choice = choose([engines], tmp_path / "engines")
    beside = replace(opening, beside=True)
    choice.open(beside)
    assert "one wide" not in workshop.loaded
    del workshop.loaded[:]
    choice.open(beside)
    assert workshop.loaded == ["one"]
    choice.open(opening)
    assert workshop.loaded == ["one", "one", "two", "one wide"]
    del workshop.loaded[:]
    choice.open(beside)
    assert workshop.loaded == ["one wide"]


def test_beside_others_nothing_is_compiled_here(workshop: Workshop, opening: Opening, tmp_path: Path) -> None:
    """A known kind need not be timed; but each version is compiled for itself."""
    ready = False
    engine = replace(workshop.candidate("one"), compiled=lambda *_, **__: ready)
    aside = Aside(beside := replace(opening, beside=True))
    choice = choose([[engine]], tmp_path / "engines", preparation=aside)
    choice.open(opening)
    choice.open(beside)
    assert aside.runs == 1
    ready = True
    choice.open(beside)
    assert aside.runs == 1


def another(opening: Opening, registry: Registry) -> Opening:
    """The same network, trained by someone else."""
    version = add_version(registry, created_by="another", labels=("a", "b", "c"))
    return replace(opening, folder=registry.folder("shapes", version), manifest=registry.manifest("shapes", version))


@pytest.mark.parametrize("damage", ["", "{", '{"engine": "one"}', "\0" * 100])
def test_a_damaged_choice_is_made_anew(
    workshop: Workshop, opening: Opening, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning; then it is whole again."""
    choice = choose([[workshop.candidate("one")]], tmp_path / "engines")
    choice.open(opening)
    (file,) = (tmp_path / "engines").glob("*.json")
    file.write_text(damage)
    assert choice.open(opening)[0].name == "one"
    assert "made anew" in caplog.text
    assert json.loads(file.read_text())["engine"] == "one"


def test_a_chosen_engine_that_does_not_do_any_more_is_replaced(
    workshop: Workshop, opening: Opening, tmp_path: Path
) -> None:
    """Say, its package is gone."""
    choose([[workshop.candidate("one")]], tmp_path / "engines").open(opening)
    gone = [workshop.candidate("one", refusal="Not installed."), workshop.candidate("two")]
    assert choose([gone], tmp_path / "engines").open(opening)[0].name == "two"
    assert choose([[workshop.candidate("three")]], tmp_path / "engines").open(opening)[0].name == "three"


@pytest.mark.parametrize("obstacle", ["a file", "no parent", "writable by all", "parent writable by all", "a link"])
def test_without_a_cache_folder_versions_are_timed_each_time(
    workshop: Workshop, opening: Opening, tmp_path: Path, obstacle: str
) -> None:
    """A cache that cannot be used, or that others could have written to, is no reason to fail."""
    folder = tmp_path / "cache" / "engines"
    folder.parent.mkdir()
    if obstacle == "a file":
        folder.write_text("")
    elif obstacle == "no parent":
        folder = tmp_path / "missing" / "cache" / "engines"
    elif obstacle.endswith("writable by all"):
        choose([[workshop.candidate("one")]], folder).open(opening)
        (folder.parent if obstacle.startswith("parent") else folder).chmod(0o777)
    else:
        (tmp_path / "elsewhere").mkdir()
        folder.symlink_to(tmp_path / "elsewhere")
    choice = choose([[workshop.candidate("one"), workshop.candidate("two")]], folder)
    for _ in range(2):
        del workshop.loaded[:]
        choice.open(opening)
        assert workshop.loaded == ["one", "two"]
    assert not (tmp_path / "missing").exists()


def test_a_cache_in_a_folder_that_is_not_there_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It was asked for, and would silently not be had. Without the setting it comes with the workspace."""
    EngineChoice.of(Settings(workspace=tmp_path / "workspace"))
    EngineChoice.of(Settings(cache=tmp_path / "cache"))
    assert caplog.text == ""
    EngineChoice.of(Settings(cache=tmp_path / "missing" / "cache"))
    assert f"there is no folder {tmp_path / 'missing'}" in caplog.text


def test_the_cache_is_made_for_this_user_alone(workshop: Workshop, opening: Opening, tmp_path: Path) -> None:
    """With the folder that it is in, whatever the umask."""
    choose([[workshop.candidate("one")]], tmp_path / "cache" / "engines").open(opening)
    for folder in (tmp_path / "cache", tmp_path / "cache" / "engines"):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_workers_that_start_together_measure_once(workshop: Workshop, opening: Opening, tmp_path: Path) -> None:
    """The others wait, and take what the first one found."""
    engines = [workshop.candidate("one", seconds=0.001), workshop.candidate("two", seconds=0.002)]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(choose([engines], tmp_path / "engines").open, opening) for _ in range(3)]
        tunings = {repr(future.result()[1]) for future in futures}
    assert len(tunings) == 1
    assert workshop.loaded.count("two") == 1


def names(groups: Sequence[Sequence[Candidate]]) -> list[list[str]]:
    return [[candidate.name for candidate in group] for group in groups]


HARMLESS: dict[str, Any] = {
    "metrics": {"accuracy": 0.9},
    "precisions": {"bf16": PrecisionCheck(accuracy=0.8995, images=1000, agreement=0.999, max_difference=0.02)},
}
HARMFUL: dict[str, Any] = {
    "metrics": {"accuracy": 0.9},
    "precisions": {"bf16": PrecisionCheck(accuracy=0.89, images=1000, agreement=0.98, max_difference=0.2)},
}
LITERT: dict[str, Any] = {"files": {"model.tflite": "0" * 64}}
INT8: dict[str, Any] = {
    "metrics": {"accuracy": 0.9},
    "precisions": {"int8": PrecisionCheck(accuracy=0.9, images=1000, agreement=0.995, max_difference=0.1)},
    "files": {"int8/model.xml": "0" * 64},
}


@pytest.mark.parametrize(
    ("settings", "changes", "expected"),
    [
        ({}, {}, [["openvino-f32"], ["tensorflow-f32"]]),
        ({}, LITERT, [["openvino-f32", "litert-f32"], ["tensorflow-f32"]]),
        ({}, HARMLESS | LITERT, [["openvino-f32", "openvino-bf16", "litert-f32"], ["tensorflow-f32"]]),
        ({"precision": "f32"}, HARMLESS, [["openvino-f32"], ["tensorflow-f32"]]),
        ({"precision": "bf16"}, LITERT, [["openvino-bf16"], ["openvino-f32"], ["tensorflow-f32"]]),
        ({"precision": "bf16"}, HARMLESS, [["openvino-bf16"], ["openvino-f32"], ["tensorflow-f32"]]),
        ({"precision": "bf16", "runtime": "openvino"}, HARMFUL, [["openvino-f32"]]),
        ({}, HARMFUL, [["openvino-f32"], ["tensorflow-f32"]]),
        ({}, INT8, [["openvino-f32", "openvino-int8"], ["tensorflow-f32"]]),
        ({}, INT8 | {"files": {}}, [["openvino-f32"], ["tensorflow-f32"]]),
        ({"precision": "f32"}, INT8, [["openvino-f32"], ["tensorflow-f32"]]),
        ({"precision": "int8"}, INT8, [["openvino-int8"], ["openvino-f32"], ["tensorflow-f32"]]),
        ({"precision": "int8"}, LITERT, [["openvino-f32", "litert-f32"], ["tensorflow-f32"]]),
        ({"runtime": "openvino"}, HARMLESS | LITERT, [["openvino-f32", "openvino-bf16"]]),
        ({"runtime": "litert"}, LITERT, [["litert-f32"]]),
        ({"runtime": "tensorflow"}, {}, [["tensorflow-f32"]]),
    ],
    ids=lambda value: ",".join(map(str, value)) if isinstance(value, dict) else None,
)
def test_which_engines_may_run_a_version(
    settings: dict[str, Any], changes: dict[str, Any], expected: list[list[str]]
) -> None:
    """bf16 only where it was measured to be harmless, or is asked for and was not measured; int8 and LiteRT where the
    version carries their exports; TensorFlow, which costs seconds, only where the others cannot.
    """
    assert names(candidates(Settings(**settings))(manifest("shapes", **changes))) == expected


def test_the_log_says_why_a_precision_that_was_asked_for_is_not_used(caplog: pytest.LogCaptureFixture) -> None:
    """With what was measured; where nothing was wrong it says nothing."""
    allowed = candidates(Settings(precision="bf16"))
    allowed(manifest("shapes", **HARMLESS))
    assert caplog.text == ""
    allowed(manifest("shapes", **HARMFUL))
    assert "shapes is served in f32, although FOVEA_PRECISION is bf16" in caplog.text
    assert "measured to be 0.8900, with 98.00 % of them in the same class" in caplog.text
    candidates(Settings(precision="int8"))(manifest("shapes", **LITERT))
    assert "although FOVEA_PRECISION is int8: it has no int8/model.xml" in caplog.text


def test_litert_is_no_candidate_where_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is missing then: OpenVINO reads every version."""
    monkeypatch.setattr(candidates_module, "find_spec", lambda _: None)
    assert names(candidates(Settings())(manifest("shapes", **LITERT)))[0] == ["openvino-f32"]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_lower_precisions_need_openvino(precision: Literal["bf16", "int8"]) -> None:
    """Asking for what cannot be had stops the start."""
    with pytest.raises(ConfigurationError, match=f"FOVEA_PRECISION={precision} needs OpenVINO"):
        Settings(runtime="litert", precision=precision).check()


def real(registry: Registry, saved_model: Path, **changes: Any) -> Opening:
    version = add_version(registry, saved_model=saved_model, **changes)
    folder, document = registry.folder("shapes", version), registry.manifest("shapes", version)
    return Opening(folder, document, read_expected(folder, document), lanes=1, threads=1, decode_seconds=0.001)


def test_real_engines_are_timed_against_each_other(registry: Registry, saved_models: Path, tmp_path: Path) -> None:
    """OpenVINO in both precisions and LiteRT; the second load is told by the cache."""
    opening = real(registry, saved_models / "plain", **HARMLESS)
    choice = EngineChoice.of(Settings(workspace=tmp_path))
    runtime, tuning = choice.open(opening)
    runtime.close()
    assert {"openvino-f32", "litert-f32"} <= tuning.candidates.keys() <= {"openvino-f32", "openvino-bf16", "litert-f32"}
    assert tuning.engine == runtime.name
    again, known = choice.open(opening)
    assert (again.name, known) == (runtime.name, tuning)
    np.testing.assert_allclose(again.predict(opening.expected.images), opening.expected.probabilities, atol=0.05)
    again.close()


def test_tensorflow_runs_what_openvino_cannot_read(
    registry: Registry, saved_models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning that says which operation it was."""
    opening = real(registry, saved_models / "unreadable")
    with caplog.at_level(logging.WARNING, "app"):
        runtime, tuning = EngineChoice.of(Settings(workspace=tmp_path)).open(opening)
    assert tuning.engine == "tensorflow-f32"
    assert "AsString" in caplog.text
    assert "falling back to TensorFlow" in caplog.text
    np.testing.assert_allclose(runtime.predict(opening.expected.images), opening.expected.probabilities, atol=1e-5)


def test_without_tensorflow_what_openvino_cannot_read_is_refused(
    registry: Registry, saved_models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason names the operation that is missing and what to install."""

    def find_spec(name: str) -> ModuleSpec | None:
        return None if name == "tensorflow" else ModuleSpec(name, None)

    monkeypatch.setattr(candidates_module, "find_spec", find_spec)
    opening = real(registry, saved_models / "unreadable")
    with pytest.raises(VersionRefused, match=r"(?s)AsString.*not installed: install `fovea\[train\]`"):
        EngineChoice.of(Settings(workspace=tmp_path)).open(opening)
