"""From encoded images to answers."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest

from app.errors import (
    DeadlineExceeded,
    FoveaError,
    InferenceFailed,
    InvalidImage,
    InvalidRequest,
    ModelNotFound,
    NotReady,
    Overloaded,
    UnsupportedImageFormat,
    VersionNotFound,
    VersionRefused,
)
from app.preprocessing import Float32Array, UInt8Array, to_array
from app.serving.classifier import Answer
from app.serving.runtimes.base import Batch
from app.serving.runtimes.fake import FakeRuntime
from app.serving.tensors import Tensor
from app.store.registry import Registry
from tests.serving.conftest import StartClassifier
from tests.serving.engines import Engines
from tests.serving.eventually import eventually
from tests.serving.versions import LABELS, SCALED, SIZE, add_version, gray, png

BLACK, GRAY, WHITE = gray(0), gray(128), gray(255)


def best(answer: Answer) -> list[str]:
    """The most probable label of each image, or the code of its error."""
    return [r.code if isinstance(r, FoveaError) else answer.labels[int(r.argmax())] for r in answer.results]


def errors(results: Sequence[object]) -> list[str]:
    return [str(result) for result in results if isinstance(result, FoveaError)]


# Answers


async def test_images_are_answered_in_the_order_sent(registry: Registry, start: StartClassifier) -> None:
    """By the production version, each with probabilities that sum to 1."""
    add_version(registry, promote=True)
    classifier = await start()
    answer = await classifier.classify([WHITE, BLACK, GRAY, WHITE])
    assert (answer.model, answer.version, list(answer.labels)) == ("shapes", 1, list(LABELS))
    assert best(answer) == ["diagonal", "horizontal", "vertical", "diagonal"]
    for result in answer.results:
        assert isinstance(result, np.ndarray)
        assert result.dtype == np.float32
        assert result.sum() == pytest.approx(1)


async def test_a_bad_image_fails_alone(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Its error stands in its place, and the others are answered."""
    add_version(registry, promote=True)
    classifier = await start(max_pixels=28 * 28)
    large = png(np.zeros((29, 28, 1), np.uint8))
    answer = await classifier.classify([BLACK, b"text", b"", BLACK[:-30], large, WHITE])
    assert best(answer)[0::5] == ["horizontal", "diagonal"]
    assert [type(result) for result in answer.results[1:4]] == [UnsupportedImageFormat, InvalidImage, InvalidImage]
    assert best(answer)[4] == "image_too_large"
    assert sample("fovea_rejected_total", reason="invalid_image") == 2
    assert sample("fovea_predictions_total", model="shapes", version="1", label="diagonal") == 1


async def test_a_request_without_images_is_invalid(registry: Registry, start: StartClassifier) -> None:
    """At least one is needed."""
    add_version(registry, promote=True)
    with pytest.raises(InvalidRequest, match="no image"):
        await (await start()).classify([])


# Which model, which version


async def test_the_only_model_is_the_default(registry: Registry, start: StartClassifier) -> None:
    """A second one that is not in production yet does not make a request ambiguous."""
    add_version(registry, "shapes", promote=True)
    add_version(registry, "digits")
    assert (await (await start()).classify([BLACK])).model == "shapes"


async def test_several_models_must_be_named(registry: Registry, start: StartClassifier) -> None:
    """The error names them; the setting chooses one."""
    add_version(registry, "shapes", promote=True)
    add_version(registry, "digits", promote=True)
    classifier = await start()
    with pytest.raises(InvalidRequest, match=r"name one of digits, shapes .* FOVEA_DEFAULT_MODEL"):
        await classifier.classify([BLACK])
    assert (await classifier.classify([BLACK], model="digits")).model == "digits"
    assert (await (await start(default_model="shapes")).classify([BLACK])).model == "shapes"


async def test_an_unknown_model_is_not_found(registry: Registry, start: StartClassifier) -> None:
    """The error names those that exist."""
    add_version(registry, "shapes", promote=True)
    add_version(registry, "digits")
    classifier = await start()
    with pytest.raises(ModelNotFound, match=r"'nothing'\. There is: digits, shapes\."):
        await classifier.classify([BLACK], model="nothing")


async def test_a_model_is_found_as_soon_as_it_is_registered(registry: Registry, start: StartClassifier) -> None:
    """Nobody has to wait for the next poll to use a version by its number."""
    classifier = await start(poll_interval=60)
    add_version(registry, "shapes")
    assert (await classifier.classify([BLACK], model="shapes", version=1)).version == 1


async def test_a_version_can_be_asked_for_by_number(registry: Registry, start: StartClassifier) -> None:
    """Whether or not it is in production; "production" is the version that a request gets without."""
    for promote in (False, True, False):
        add_version(registry, promote=promote)
    classifier = await start()
    versions = [(await classifier.classify([BLACK], version=v)).version for v in (1, 2, 3, "production", None)]
    assert versions == [1, 2, 3, 2, 2]


async def test_a_version_that_does_not_exist_is_not_found(registry: Registry, start: StartClassifier) -> None:
    """The error names those that do."""
    add_version(registry, promote=True)
    with pytest.raises(VersionNotFound, match=r"no version 7. It has: 1"):
        await (await start()).classify([BLACK], version=7)


async def test_a_model_without_production_version_says_what_can_be_asked(
    registry: Registry, start: StartClassifier
) -> None:
    """It can be used by the number of a version, even without its name if it is the only one."""
    add_version(registry)
    classifier = await start()
    with pytest.raises(
        VersionNotFound, match=r"no version in production\. Promote one, or ask for one by its number: 1"
    ):
        await classifier.classify([BLACK], model="shapes")
    with pytest.raises(NotReady, match=r"No model has a version in production\. Promote one"):
        await classifier.classify([BLACK])
    assert (await classifier.classify([BLACK], version=1)).version == 1


async def test_a_refused_version_is_checked_once_however_often_it_is_asked_for(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Every request gets the reason; only the first one costs a load."""
    add_version(registry, promote=True)
    bad = add_version(registry, labels=[*LABELS, "spiral"])
    classifier = await start()
    for _ in range(3):
        with pytest.raises(VersionRefused, match="4 labels"):
            await classifier.classify([BLACK], version=bad)
    assert sample("fovea_version_refusals_total", model="shapes") == 1
    assert classifier.ready


async def test_requests_for_the_same_version_share_its_loading(registry: Registry, start: StartClassifier) -> None:
    """It is loaded once, also when the first who asked for it goes away meanwhile."""
    add_version(registry)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.load_go.clear()
    calls = [asyncio.create_task(classifier.classify([BLACK], version=1)) for _ in range(4)]
    await eventually(lambda: engines.loads)
    calls[0].cancel()
    engines.load_go.set()
    answers = await asyncio.gather(*calls[1:])
    assert [answer.version for answer in answers] == [1, 1, 1]
    assert engines.loads == [1]


async def test_versions_asked_for_by_number_do_not_pile_up(registry: Registry, start: StartClassifier) -> None:
    """Two stay loaded besides that in production; those used longest ago are closed."""
    for _ in range(5):
        add_version(registry)
    registry.promote("shapes", 1, by="test")
    engines = Engines()
    classifier = await start(load_runtime=engines)
    for version in (2, 3, 2, 4, 5, 1):
        await classifier.classify([BLACK], version=version)
    await eventually(lambda: sorted(engines.open) == [1, 4, 5])
    assert engines.loads == [1, 2, 3, 4, 5]


# Admission


async def test_a_full_queue_refuses_before_decoding(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """With the time after which to come back; what was admitted is answered."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_queue=4, max_batch=1)
    engines.go.clear()
    admitted = asyncio.create_task(classifier.classify([BLACK] * 3))
    await eventually(engines.begun.is_set)
    with pytest.raises(Overloaded, match="3 of 4 images") as full:
        await classifier.classify([b"never decoded"] * 2)
    assert 0 < full.value.retry_after <= 60
    assert sample("fovea_images_in_flight") == 3
    assert sample("fovea_rejected_total", reason="overloaded") == 2
    assert sample("fovea_rejected_total", reason="unsupported_image_format") == 0
    engines.go.set()
    assert best(await admitted) == ["horizontal"] * 3
    assert best(await classifier.classify([WHITE] * 4)) == ["diagonal"] * 4
    assert sample("fovea_images_in_flight") == 0


async def test_more_images_than_ever_fit_are_invalid(registry: Registry, start: StartClassifier) -> None:
    """Coming back later would not help."""
    add_version(registry, promote=True)
    with pytest.raises(InvalidRequest, match="3 images in one request; at most 2"):
        await (await start(max_queue=2)).classify([BLACK] * 3)


async def test_an_unknown_model_takes_no_place(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Whatever goes wrong, places are given back."""
    add_version(registry, promote=True)
    classifier = await start(max_queue=1)
    for _ in range(3):
        with pytest.raises(ModelNotFound):
            await classifier.classify([BLACK], model="nothing")
    assert best(await classifier.classify([BLACK])) == ["horizontal"]


async def test_a_client_that_has_gone_frees_its_place(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Its images that were not begun are neither decoded nor run."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_queue=6, max_batch=1)
    engines.go.clear()
    gone = asyncio.create_task(classifier.classify([BLACK] * 6))
    await eventually(engines.begun.is_set)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert sample("fovea_images_in_flight") == 0
    others = asyncio.create_task(classifier.classify([WHITE] * 6))
    await asyncio.sleep(0)
    engines.go.set()
    assert best(await others) == ["diagonal"] * 6
    # One image of the client that went was in the engine already.
    assert sum(engines.batches) == 7


async def test_images_of_a_client_that_has_gone_are_not_decoded(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for the one that a decoder was at."""
    add_version(registry, promote=True)
    classifier = await start()
    go, decoded = threading.Event(), []

    def decode(data: bytes, *args: Any, **kwargs: Any) -> UInt8Array:
        decoded.append(data)
        assert go.wait(30)
        return to_array(data, *args, **kwargs)

    monkeypatch.setattr("app.serving.batching.to_array", decode)
    gone = asyncio.create_task(classifier.classify([BLACK] * 5))
    await eventually(lambda: decoded)
    gone.cancel()
    await asyncio.wait([gone])
    go.set()
    assert best(await classifier.classify([WHITE])) == ["diagonal"]
    assert decoded == [BLACK, WHITE]


# Batches


async def test_a_free_engine_takes_what_waits(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """The first image goes alone and at once; those that came meanwhile go together, up to the maximum."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_batch=8)
    engines.go.clear()
    calls = [asyncio.create_task(classifier.classify([BLACK]))]
    await eventually(engines.begun.is_set)
    calls += [asyncio.create_task(classifier.classify([WHITE])) for _ in range(11)]
    await asyncio.sleep(0.05)
    engines.go.set()
    answers = await asyncio.gather(*calls)
    assert [best(answer) for answer in answers] == [["horizontal"], *([["diagonal"]] * 11)]
    assert engines.batches == [1, 8, 3]
    assert sample("fovea_batch_size_sum", model="shapes", version="1") == 12


async def test_a_small_request_does_not_wait_for_a_large_one(registry: Registry, start: StartClassifier) -> None:
    """Requests take turns, image by image."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_batch=2)
    engines.go.clear()
    large = asyncio.create_task(classifier.classify([BLACK] * 200))
    await eventually(engines.begun.is_set)
    small = asyncio.create_task(classifier.classify([WHITE]))
    await asyncio.sleep(0)
    engines.go.set()
    assert best(await small) == ["diagonal"]
    assert not large.done()
    assert sum(engines.batches) < 100
    assert best(await large) == ["horizontal"] * 200


# Engines that fail


async def test_an_engine_that_fails_once_serves_on(registry: Registry, start: StartClassifier) -> None:
    """The images of that batch get an error that says no more than it should; the next are answered."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.error = MemoryError("secret")
    failed = await classifier.classify([BLACK, WHITE])
    assert [type(result) for result in failed.results] == [InferenceFailed, InferenceFailed]
    assert not any("secret" in text for text in errors(failed.results))
    engines.error = None
    assert best(await classifier.classify([BLACK])) == ["horizontal"]


async def test_an_engine_that_answers_with_the_wrong_shape_fails_the_batch_only(
    registry: Registry, start: StartClassifier
) -> None:
    """Nobody gets the answer to somebody else's image."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.lose_rows = True
    assert best(await classifier.classify([BLACK, WHITE])) == ["inference_failed"] * 2
    engines.lose_rows = False
    assert best(await classifier.classify([WHITE])) == ["diagonal"]


async def test_a_tensor_that_overflows_is_its_senders_fault(registry: Registry, start: StartClassifier) -> None:
    """Numbers that no picture has may well end in none; that must not end the answers for everybody."""
    add_version(registry, promote=True, **SCALED)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.nan_for = 7
    far, near = (Tensor(np.full((SIZE, SIZE, 1), value, np.float32), typed=True) for value in (7, 0))
    answer = await classifier.classify([far, near])
    assert best(answer) == ["invalid_request", "horizontal"]
    assert errors(answer.results) == [
        "Version 1 of shapes answers the tensor of an image with numbers that are not finite: it is far from what "
        "preprocessing gives."
    ]
    assert classifier.ready


async def test_numbers_that_are_not_finite_are_never_an_answer(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Only that image fails, but the model is not ready any more, until another version, or itself anew, answers."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.nan_for = 128
    answer = await classifier.classify([BLACK, GRAY, WHITE])
    assert best(answer) == ["horizontal", "inference_failed", "diagonal"]
    assert errors(answer.results) == [
        "Version 1 of shapes answered with numbers that are not finite (NaN or infinite)."
    ]
    assert not classifier.ready
    status = classifier.status()
    assert status.models[0].state == "unavailable"
    assert "not finite" in (status.reason or "")
    await eventually(lambda: sample("fovea_model_ready", model="shapes") == 0)
    engines.nan_for = None
    await classifier.refresh("shapes")
    assert classifier.ready
    assert best(await classifier.classify([GRAY])) == ["vertical"]
    assert engines.loads == [1, 1]


# The end


async def test_stopping_fails_what_waits_and_closes_the_engines(registry: Registry, start: StartClassifier) -> None:
    """Nobody waits for ever, and nothing stays open."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_batch=1)
    engines.go.clear()
    waiting = asyncio.create_task(classifier.classify([BLACK] * 5))
    await eventually(engines.begun.is_set)
    stopping = asyncio.create_task(classifier.stop())
    with pytest.raises(NotReady, match="shutting down"):
        await waiting
    engines.go.set()
    await stopping
    assert engines.open == []
    assert not classifier.ready
    with pytest.raises(NotReady, match="shutting down"):
        await classifier.classify([BLACK])


# Deadlines


async def test_a_call_is_given_up_at_its_deadline(
    registry: Registry, start: StartClassifier, sample: Callable[..., float]
) -> None:
    """Its caller hears so at once, its images are never decoded, and others are answered."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_batch=1)
    engines.go.clear()
    holding = asyncio.create_task(classifier.classify([BLACK]))
    await eventually(engines.begun.is_set)
    late = classifier.classify([WHITE] * 3, deadline=time.monotonic() + 0.05)
    with pytest.raises(DeadlineExceeded, match="by the request's deadline"):
        await late
    engines.go.set()
    assert best(await holding) == ["horizontal"]
    assert best(await classifier.classify([GRAY])) == ["vertical"]
    assert engines.batches == [1, 1]
    assert sample("fovea_stage_seconds_count", stage="decode") == 2
    assert sample("fovea_rejected_total", reason="deadline_exceeded") == 3


async def test_images_whose_deadline_passed_while_they_were_decoded_are_not_classified(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine's time is for those that still wait."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    decoding, go = threading.Event(), threading.Event()

    def slow(data: bytes, *arguments: Any, **options: Any) -> UInt8Array:
        decoding.set()
        assert go.wait(30)
        return to_array(data, *arguments, **options)

    monkeypatch.setattr("app.serving.batching.to_array", slow)
    call = asyncio.create_task(classifier.classify([BLACK], deadline=time.monotonic() + 0.2))
    await eventually(decoding.is_set)
    with pytest.raises(DeadlineExceeded):
        await call
    go.set()
    assert best(await classifier.classify([WHITE])) == ["diagonal"]
    assert engines.batches == [1]


async def test_who_would_be_answered_too_late_is_turned_away_at_once(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its picture is read, and with the time in which there will be room."""
    add_version(registry, promote=True)
    classifier = await start()
    monkeypatch.setattr("app.serving.batching.Engine.wait", lambda *_: 3.0)
    for deadline, refused in ((2.0, True), (5.0, True), (7.0, False)):
        with pytest.raises(Overloaded, match=r"would take some 3\.0 s") if refused else nullcontext():
            classifier.check_admission(deadline=time.monotonic() + deadline)
    classifier.check_admission()
    assert classifier.retry_after() == 3
    with pytest.raises(Overloaded):
        await classifier.classify([BLACK], deadline=time.monotonic() + 1)


async def test_a_deadline_holds_while_a_version_loads(registry: Registry, start: StartClassifier) -> None:
    """The load goes on, for those who come later."""
    add_version(registry, promote=True)
    add_version(registry)
    engines = Engines()
    classifier = await start(load_runtime=engines)
    engines.load_go.clear()
    with pytest.raises(DeadlineExceeded, match="not loaded by"):
        await classifier.classify([BLACK], version=2, deadline=time.monotonic() + 0.1)
    engines.load_go.set()
    assert (await classifier.classify([BLACK], version=2)).version == 2
    assert engines.loads == [1, 2]


async def test_a_picture_that_is_slow_to_decode_holds_up_one_turn_only(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request of many such pictures does not keep a small one waiting for all of them."""
    add_version(registry, promote=True)
    engines = Engines()
    classifier = await start(load_runtime=engines, max_batch=32)
    order: list[bytes] = []

    def slow(data: bytes, *arguments: Any, **options: Any) -> UInt8Array:
        order.append(data)
        if data == WHITE:
            time.sleep(0.02)
        return to_array(data, *arguments, **options)

    monkeypatch.setattr("app.serving.batching.to_array", slow)
    many = asyncio.create_task(classifier.classify([WHITE] * 12))
    await eventually(lambda: order)
    assert best(await classifier.classify([BLACK])) == ["horizontal"]
    assert order.index(BLACK) <= 4
    assert best(await many) == ["diagonal"] * 12


async def test_an_engine_goes_on_after_what_nobody_foresaw(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a lane and on the event loop alike: the micro-batch fails, the next one is answered, and closing ends."""
    add_version(registry, promote=True)
    for load_runtime in (Engines(), None):
        classifier = await start(load_runtime=load_runtime)
        with monkeypatch.context() as patch:
            patch.setattr("app.serving.batching.np.empty", lambda *_: 1 / 0)
            failed = await asyncio.gather(*(classifier.classify([WHITE]) for _ in range(3)))
        assert [best(answer) for answer in failed] == [["inference_failed"]] * 3
        assert best(await classifier.classify([WHITE])) == ["diagonal"]
        await classifier.stop()


async def test_small_images_of_a_small_model_are_answered_where_they_arrive(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the event loop, in micro-batches; images that are large, or only look small, are given to a lane."""
    add_version(registry, promote=True)
    threads: list[tuple[int, str]] = []

    class Watched(FakeRuntime):
        def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
            threads.append((len(batch), threading.current_thread().name))
            return super().predict(batch)

    classifier = await start(load_runtime=Watched, max_batch=8)
    threads.clear()
    here = threading.current_thread().name
    answers = await asyncio.gather(*(classifier.classify([WHITE]) for _ in range(11)))
    assert [best(answer) for answer in answers] == [["diagonal"]] * 11
    assert {name for _, name in threads} == {here}
    assert sum(images for images, _ in threads) == 11
    assert 1 < max(images for images, _ in threads) <= 8
    threads.clear()
    wide = png(np.full((400, 400, 1), 255, np.uint8))  # a few hundred bytes
    assert best(await classifier.classify([wide])) == ["diagonal"]
    assert best(await classifier.classify([b"text"])) == ["unsupported_image_format"]
    [(images, name)] = threads
    assert images == 1
    assert name != here


async def test_a_look_that_was_under_way_does_not_bring_a_forgotten_model_back(
    registry: Registry, start: StartClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it read before the model was removed is read again: else it would stand there as unready for ever."""
    add_version(registry, promote=True)
    classifier = await start()
    reading, go = threading.Event(), threading.Event()
    production = Registry.production

    def slow(registry: Registry, model: str) -> Any:
        found = production(registry, model)
        reading.set()
        assert go.wait(10)
        return found

    monkeypatch.setattr(Registry, "production", slow)
    # It looks for a model that it does not know.
    look = asyncio.create_task(classifier.refresh("other"))
    assert await asyncio.to_thread(reading.wait, 10)
    monkeypatch.setattr(Registry, "production", production)
    registry.remove("shapes")
    await classifier.forget("shapes")
    go.set()
    with pytest.raises(ModelNotFound):
        await look
    assert classifier.status().models == ()
