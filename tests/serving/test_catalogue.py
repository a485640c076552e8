"""Which version answers: starting, following the promotion logs, swapping."""

from __future__ import annotations

import asyncio
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import (
    InferenceFailed,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    StorageFailed,
    VersionNotFound,
    VersionRefused,
)
from app.metrics import Metrics
from app.preprocessing import UInt8Array
from app.serving import shelf
from app.serving.classifier import Classifier
from app.serving.status import ModelStatus
from app.serving.versions import LoadedVersion, load_version
from app.settings import Settings
from app.store.registry import Registry
from tests.serving.conftest import StartClassifier
from tests.serving.engines import Engines
from tests.serving.eventually import eventually
from tests.serving.versions import LABELS, add_version, gray

BLACK = gray(0)
SPIRAL: dict[str, Any] = {"labels": [*LABELS, "spiral"]}  # a forged manifest: one label too many


def only(classifier: Classifier) -> ModelStatus:
    (model,) = classifier.status().models
    return model


async def serves(classifier: Classifier, version: int) -> None:
    await eventually(lambda: only(classifier).serving == version)


async def serving(classifier: Classifier, model: str | None = None) -> int:
    return (await classifier.classify([BLACK], model=model)).version


# Starting


async def test_the_production_version_of_every_model_is_loaded_at_the_start(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Once `start` returns the service is ready and says what it serves."""
    add_version(registry, "shapes", promote=True)
    add_version(registry, "shapes")
    add_version(registry, "digits", promote=True)
    classifier = await start()
    assert classifier.started
    assert classifier.ready
    stand = [(m.model, m.state, m.production, m.serving, m.runtime) for m in classifier.status().models]
    assert stand == [("digits", "ready", 1, 1, "fake"), ("shapes", "ready", 1, 1, "fake")]
    assert sample("fovea_model_ready", model="digits") == 1
    assert sample("fovea_model_info", model="shapes", version="1", runtime="fake") == 1


async def test_nothing_is_ready_before_everything_is_loaded(
    registry: Registry, metrics: Metrics, sample: Callable[..., float]
) -> None:
    """Requests meanwhile are told to come back."""
    add_version(registry, promote=True)
    engines = Engines()
    engines.load_go.clear()
    classifier = Classifier(registry, Settings(runtime="fake"), metrics, load_runtime=engines)
    starting = asyncio.create_task(classifier.start())
    await eventually(lambda: engines.loads)
    assert not classifier.ready
    assert not classifier.started
    assert classifier.status().reason == "The models are still loading."
    assert only(classifier).state == "loading"
    with pytest.raises(NotReady, match="Model shapes is still loading; try again"):
        await classifier.classify([BLACK])
    engines.load_go.set()
    await starting
    assert classifier.ready
    await classifier.stop()


async def test_an_empty_store_says_what_to_do(registry: Registry, start: StartClassifier) -> None:
    """Not ready; and ready by itself when there is a model."""
    classifier = await start()
    status = classifier.status()
    assert not status.ready
    assert "holds no model. Train one (`fovea train DATASET`" in (status.reason or "")
    with pytest.raises(NotReady, match="holds no model"):
        await classifier.classify([BLACK])
    add_version(registry)
    await eventually(lambda: classifier.status().models)
    assert only(classifier).state == "unpromoted"
    assert "No model has a version in production" in (classifier.status().reason or "")
    registry.promote("shapes", 1, by="test")
    await eventually(lambda: classifier.ready)
    assert await serving(classifier) == 1


async def test_a_cold_start_goes_back_to_the_newest_version_that_loads(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Through the promotion log, not by numbers; the state is degraded, with the reason."""
    for version in (1, 2, 3, 4):
        add_version(registry, **(SPIRAL if version == 2 else {}))
    for version in (3, 1, 2, 4, 2):
        registry.promote("shapes", version, by="test")
    with (registry.folder("shapes", 4) / "golden" / "0.png").open("ab") as file:
        file.write(b"tampered")
    classifier = await start()
    assert await serving(classifier) == 1
    assert classifier.ready
    status = only(classifier)
    assert (status.state, status.production, status.serving) == ("degraded", 2, 1)
    assert status.reason is not None
    assert status.reason.startswith("Version 2 of shapes is refused: ")
    assert status.reason.endswith("Version 1 goes on answering.")
    assert sample("fovea_version_refusals_total", model="shapes") == 2


async def test_a_model_of_which_nothing_loads_makes_the_service_not_ready(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """The reason is in the status and in the answer; the other models answer."""
    add_version(registry, "digits", promote=True)
    add_version(registry, "shapes", promote=True, **SPIRAL)
    classifier = await start()
    assert not classifier.ready
    assert "Version 1 of shapes is refused" in (classifier.status().reason or "")
    assert [m.state for m in classifier.status().models] == ["ready", "unavailable"]
    assert sample("fovea_model_ready", model="shapes") == 0
    with pytest.raises(VersionRefused, match=r"4 labels.*Nothing else of shapes can answer: promote another version"):
        await classifier.classify([BLACK], model="shapes")
    assert set(classifier.refused()) == {("shapes", 1)}
    assert await serving(classifier, "digits") == 1


async def test_what_is_promoted_after_a_refusal_is_loading_and_not_refused(
    registry: Registry, start: StartClassifier
) -> None:
    """A request may come again while another version is on its way, which then answers."""
    add_version(registry, promote=True, **SPIRAL)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.load_go.clear()
    add_version(registry, promote=True)
    await eventually(lambda: only(classifier).production == 2)
    with pytest.raises(NotReady):
        await classifier.classify([BLACK])
    engines.load_go.set()
    await serves(classifier, 2)


async def test_a_store_that_cannot_be_read_refuses_no_version_for_good(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be back in a moment: that is not ready."""
    add_version(registry, promote=True)

    def away(*_: object) -> None:
        raise StorageFailed("The store is away.")

    monkeypatch.setattr(Registry, "promotions", away)
    classifier = await start()
    with pytest.raises(NotReady, match="The store is away"):
        await classifier.classify([BLACK])
    assert not classifier.refused()


# Following


async def test_a_promotion_by_another_process_is_picked_up_within_two_seconds(
    registry: Registry, start: StartClassifier, tmp_path: Path, sample: Callable[..., float]
) -> None:
    """With the default settings, without anybody telling; the version before is closed."""
    add_version(registry, promote=True)
    add_version(registry)
    classifier = await start(poll_interval=Settings().poll_interval)
    code = """
import sys
from pathlib import Path
from app.store.registry import Registry
Registry(Path(sys.argv[1])).promote("shapes", 2, by="another process")
"""
    command = [sys.executable, "-c", code, str(tmp_path / "store")]
    await asyncio.to_thread(subprocess.run, command, check=True)
    promoted = time.monotonic()
    await serves(classifier, 2)
    assert time.monotonic() - promoted < 2
    assert await serving(classifier) == 2
    await eventually(lambda: sample("fovea_model_info", model="shapes", version="1", runtime="fake") == 0)
    assert sample("fovea_model_info", model="shapes", version="2", runtime="fake") == 1
    assert sample("fovea_model_swaps_total", model="shapes") == 2


FORGERIES: dict[str, tuple[str, Callable[[Registry, int, Path], None] | None, str]] = {
    "NaN weights": ("nan", None, "numbers that are not finite"),
    "weights that were changed after registration": (
        "plain",
        lambda registry, version, _: _overwrite(registry.folder("shapes", version) / "saved_model.pb"),
        "'saved_model.pb' changed since registration",
    ),
    "a file that is missing": (
        "plain",
        lambda registry, version, _: (registry.folder("shapes", version) / "golden" / "1.png").unlink(),
        "lacks 'golden/1.png'",
    ),
}


def _overwrite(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(b"\0")


@pytest.mark.parametrize(("model", "spoil", "reason"), FORGERIES.values(), ids=FORGERIES.keys())
async def test_a_bad_version_in_production_is_refused_while_the_old_one_serves(
    registry: Registry,
    start: StartClassifier,
    saved_models: Path,
    model: str,
    spoil: Callable[[Registry, int, Path], None] | None,
    reason: str,
) -> None:
    """Real graphs, with OpenVINO: the service stays ready, and says what is wrong."""
    add_version(registry, saved_model=saved_models / "plain", promote=True)
    classifier = await start(runtime="openvino")
    version = add_version(registry, saved_model=saved_models / model)
    if spoil is not None:
        spoil(registry, version, saved_models)
    registry.promote("shapes", version, by="test")
    await eventually(lambda: only(classifier).state == "degraded")
    assert classifier.ready
    assert reason in (only(classifier).reason or "")
    assert (only(classifier).production, only(classifier).serving) == (2, 1)
    assert await serving(classifier) == 1


def _labels(_: Registry) -> dict[str, Any]:
    return dict(SPIRAL)


def _probabilities(_: Registry) -> dict[str, Any]:
    wrong = np.full((2, 3), 1 / 3, np.float32)
    return {"forge": lambda images, _: (images, wrong)}


@pytest.mark.parametrize(
    ("forgery", "reason"),
    [(_labels, "4 labels"), (_probabilities, "differs from the trainer's")],
    ids=["labels", "golden"],
)
async def test_a_forged_manifest_or_golden_example_is_refused_while_the_old_one_serves(
    registry: Registry, start: StartClassifier, forgery: Callable[[Registry], dict[str, Any]], reason: str
) -> None:
    """Whoever wrote the promotion log."""
    add_version(registry, promote=True)
    classifier = await start()
    add_version(registry, promote=True, **forgery(registry))
    await eventually(lambda: only(classifier).state == "degraded")
    assert reason in (only(classifier).reason or "")
    assert await serving(classifier) == 1


async def test_a_refused_version_is_not_tried_at_every_poll(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """But it is when asked to, and on a new entry of the log."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    add_version(registry, promote=True, forge=lambda images, p: (images, p[:, ::-1]))
    await eventually(lambda: only(classifier).state == "degraded")
    await asyncio.sleep(0.2)  # ten polls
    assert engines.loads == [1, 2]
    with pytest.raises(VersionRefused, match="differs from the trainer's"):
        await classifier.refresh("shapes")
    assert engines.loads == [1, 2, 2]
    registry.promote("shapes", 1, by="test")
    await eventually(lambda: only(classifier).state == "ready")
    assert engines.loads == [1, 2, 2]
    registry.promote("shapes", 2, by="test")
    await eventually(lambda: only(classifier).state == "degraded")
    assert engines.loads == [1, 2, 2, 2]
    assert await serving(classifier) == 1
    assert engines.open == [1]


async def test_a_version_that_was_checked_is_not_loaded_again_when_promoted(
    registry: Registry, start: StartClassifier
) -> None:
    """Check, promote, refresh: the next answer comes from the new version."""
    add_version(registry, promote=True)
    add_version(registry)
    engines = Engines()
    classifier = await start(load_runtime=engines, poll_interval=60)
    await classifier.check("shapes", 2)
    assert await serving(classifier) == 1
    registry.promote("shapes", 2, by="test")
    await classifier.refresh("shapes")
    assert await serving(classifier) == 2
    assert engines.loads == [1, 2]
    await eventually(lambda: engines.open == [2])


async def test_checking_a_bad_version_tells_why_and_changes_nothing(registry: Registry, start: StartClassifier) -> None:
    """Also when it is checked again, and when it was sound when it was loaded."""
    add_version(registry, promote=True)
    bad = add_version(registry, **SPIRAL)
    sound = add_version(registry)
    classifier = await start()
    for _ in range(2):
        with pytest.raises(VersionRefused, match="4 labels"):
            await classifier.check("shapes", bad)
    with pytest.raises(VersionNotFound, match="no version 9"):
        await classifier.check("shapes", 9)
    await classifier.check("shapes", sound)
    (registry.folder("shapes", sound) / "golden" / "0.png").unlink()
    with pytest.raises(VersionRefused, match=r"lacks 'golden/0.png'"):
        await classifier.check("shapes", sound)
    assert only(classifier).state == "ready"
    assert await serving(classifier) == 1


async def test_a_second_model_in_production_is_announced(
    registry: Registry, start: StartClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    """From then on requests must name a model; the log says so at that moment, once, and how to avoid it."""
    add_version(registry, "shapes", promote=True)
    classifier = await start()
    assert await serving(classifier) == 1
    add_version(registry, "digits", promote=True)
    await eventually(lambda: "requests must name one of digits, shapes with `model` from now on" in caplog.text)
    await asyncio.sleep(0.1)
    assert caplog.text.count("FOVEA_DEFAULT_MODEL") == 1
    with pytest.raises(InvalidRequest, match="name one of digits, shapes"):
        await classifier.classify([BLACK])


async def test_with_a_default_model_a_second_one_is_not_announced(
    registry: Registry, start: StartClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing changes for requests that name no model."""
    add_version(registry, "shapes", promote=True)
    classifier = await start(default_model="shapes")
    add_version(registry, "digits", promote=True)
    await eventually(lambda: len(classifier.status().models) == 2)
    assert (await classifier.classify([BLACK])).model == "shapes"
    assert "requests must name" not in caplog.text


async def test_a_default_model_that_is_not_there_is_named_with_its_setting(
    registry: Registry, start: StartClassifier, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log at the start, and in the answer to a request that names none; it may be trained later."""
    add_version(registry, "shapes", promote=True)
    classifier = await start(default_model="digits")
    assert "FOVEA_DEFAULT_MODEL=digits names no model of the store (there is: shapes)" in caplog.text
    with pytest.raises(ModelNotFound, match=r"FOVEA_DEFAULT_MODEL.*no model 'digits'.*There is: shapes"):
        await classifier.classify([BLACK])
    with pytest.raises(ModelNotFound, match=r"^There is no model 'none'"):
        await classifier.classify([BLACK], model="none")
    add_version(registry, "digits", promote=True)
    await eventually(lambda: len(classifier.status().models) == 2 and classifier.status().models[0].serving)
    assert (await classifier.classify([BLACK])).model == "digits"


async def test_a_model_that_is_removed_goes_on_answering_and_the_log_says_so(
    registry: Registry, start: StartClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Once, and not at every poll."""
    add_version(registry, "shapes", promote=True)
    classifier = await start()
    shutil.rmtree(tmp_path / "store" / "shapes")
    await eventually(lambda: "Model shapes is no longer in the model store" in caplog.text)
    await asyncio.sleep(0.1)
    assert caplog.text.count("no longer in the model store") == 1
    assert await serving(classifier, "shapes") == 1


async def test_a_new_model_does_not_take_the_service_out_of_rotation(
    registry: Registry, start: StartClassifier
) -> None:
    """While its first version loads, and when that is refused, the others are what readiness speaks of."""
    add_version(registry, "shapes", promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.load_go.clear()
    add_version(registry, "digits", promote=True)
    await eventually(lambda: len(engines.loads) == 2)
    assert classifier.ready
    assert classifier.status().models[0].state == "loading"
    engines.load_go.set()
    await eventually(lambda: classifier.status().models[0].state == "ready")
    add_version(registry, "worse", promote=True, **SPIRAL)
    await eventually(lambda: [m.state for m in classifier.status().models] == ["ready", "ready", "unavailable"])
    assert classifier.ready


async def test_a_store_that_is_away_ends_nothing(
    registry: Registry, start: StartClassifier, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is loaded goes on answering, and the log is followed again when the store is back."""
    add_version(registry, promote=True)
    classifier = await start()
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("no folder")
    await asyncio.sleep(0.1)
    assert classifier.ready
    assert await serving(classifier) == 1
    (tmp_path / "store").unlink()
    (tmp_path / "away").rename(tmp_path / "store")
    add_version(registry, promote=True)
    await serves(classifier, 2)


async def test_an_error_of_the_disk_is_tried_again_and_logged_once(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Both in reading the log and in reading a version: neither is the version's fault."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    reads = []

    def fail(*_: object, **__: object) -> None:
        reads.append(1)
        raise StorageFailed("The model store cannot be read: its disk reports an input/output error.")

    for method in ("models", "verify"):
        reads.clear()
        caplog.clear()
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, "app"):
            patch.setattr(registry, method, fail)
            version = len(registry.versions("shapes"))
            add_version(registry, promote=True)
            await eventually(lambda: len(reads) > 3)
            assert await serving(classifier) == version
        assert caplog.text.count("input/output error") == 1
        await serves(classifier, version + 1)
        assert only(classifier).state == "ready"


# Swapping


async def test_a_version_that_was_replaced_is_closed_after_its_last_request(
    registry: Registry, start: StartClassifier
) -> None:
    """A request is answered by the version that it began with."""
    add_version(registry, promote=True)
    add_version(registry)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_batch=1)
    engines.go.clear()
    before = asyncio.create_task(classifier.classify([BLACK] * 3))
    await eventually(engines.begun.is_set)
    registry.promote("shapes", 2, by="test")
    await serves(classifier, 2)
    after = asyncio.create_task(classifier.classify([BLACK]))
    await asyncio.sleep(0.05)
    assert sorted(engines.open) == [1, 2]
    engines.go.set()
    assert ((await before).version, (await after).version) == (1, 2)
    assert not any(isinstance(result, InferenceFailed) for result in (await before).results)
    await eventually(lambda: engines.open == [2])


async def test_a_version_that_is_loaded_beside_others_is_loaded_with_regard_for_them(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the start, however many, have the machine for themselves: nobody is let in yet, and what is measured
    holds. What was freed goes back to the system when the old one is closed.
    """
    beside: list[bool] = []
    trimmed: list[int] = []

    def load(*arguments: Any, **options: Any) -> LoadedVersion:
        beside.append(options["beside"])
        return load_version(*arguments, **options)

    monkeypatch.setattr(shelf, "load_version", load)
    monkeypatch.setattr(shelf, "trim_memory", lambda: trimmed.append(1))
    for model in ("shapes", "digits", "letters"):
        add_version(registry, model, promote=True)
    classifier = await start()
    assert beside == [False, False, False]
    add_version(registry, promote=True)
    await eventually(lambda: any(model.serving == 2 for model in classifier.status().models))
    assert beside[3:] == [True]
    await eventually(lambda: len(trimmed) == 1)


@pytest.mark.parametrize("runtime", ["fake", "openvino"])
async def test_promotions_and_rollbacks_under_load_fail_no_request(
    registry: Registry,
    start: StartClassifier,
    saved_models: Path,
    runtime: str,
    sample: Callable[..., float],
) -> None:
    """Twenty of them while clients ask without a pause: each answer is right, and of a version that was production."""
    models = [saved_models / name if runtime == "openvino" else None for name in ("plain", "other")]
    for model in models:
        add_version(registry, saved_model=model)
    registry.promote("shapes", 1, by="test")
    classifier = await start(runtime=runtime)
    expected = {v: (await classifier.classify([gray(60), gray(200)], version=v)).results for v in (1, 2)}
    over = False
    answered = {1: 0, 2: 0}

    async def client(images: int) -> None:
        while not over:
            answer = await classifier.classify([gray(60), gray(200)] * images)
            for found, wanted in zip(answer.results, expected[answer.version] * images, strict=True):
                np.testing.assert_allclose(_array(found), _array(wanted), atol=1e-5)
            answered[answer.version] += 1

    async def answers(version: int) -> None:
        before = answered[version]
        # More than may still be under way from when it was in production the last time.
        await eventually(lambda: answered[version] > before + len(clients))

    clients = [asyncio.create_task(client(images)) for images in (1, 1, 1, 4)]
    for turn in range(20):
        version = 2 - turn % 2
        if turn % 4 == 3:
            registry.rollback("shapes", by="test")
        else:
            registry.promote("shapes", version, by="test")
        await answers(version)
    over = True
    await asyncio.gather(*clients)
    assert sample("fovea_model_swaps_total", model="shapes") == 21
    assert sample("fovea_rejected_total", reason="inference_failed") == 0
    assert min(answered.values()) > 20


def _array(result: object) -> UInt8Array:
    assert isinstance(result, np.ndarray), result
    return result
