"""What every runtime must do, whatever it is made of."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from app.errors import InferenceFailed, VersionRefused
from app.preprocessing import Float32Array, UInt8Array
from app.serving.runtimes import openvino_runtime, spare
from app.serving.runtimes.base import Runtime, RuntimeLoader
from app.serving.runtimes.loading import load_fake, load_litert, load_openvino, load_tensorflow
from app.store.manifest import BF16_TOLERANCE, Manifest
from tests.serving.versions import LOGITS, SCALED, SIZE, manifest

ENGINES: dict[str, RuntimeLoader] = {
    "openvino": load_openvino,
    "openvino with two lanes": partial(load_openvino, wide=True),
    "openvino in bf16": partial(load_openvino, precision="bf16"),
    "litert": load_litert,
    "litert with two lanes": partial(load_litert, wide=True),
    "tensorflow": load_tensorflow,
    "fake": load_fake,
}


def open_engine(name: str, folder: Path, manifest: Manifest) -> Runtime:
    lanes = 2 if "two lanes" in name else 1
    try:
        return ENGINES[name](folder, manifest, lanes=lanes, threads=lanes)
    except VersionRefused as refusal:
        if "does not compute in bf16" in str(refusal):
            pytest.skip(str(refusal))
        raise


@pytest.fixture(scope="module", params=ENGINES)
def runtime(request: pytest.FixtureRequest, saved_models: Path) -> Iterator[Runtime]:
    """The runtime under test, with a SavedModel: the same for all tests of it, as a server's answers all requests."""
    runtime = open_engine(request.param, saved_models / "plain", manifest())
    yield runtime
    runtime.close()


def tolerance(runtime: Runtime) -> float:
    """How far answers to the same image may be apart: in bf16 other batches may take other ways to round."""
    return 0.02 if runtime.name.endswith("bf16") else 1e-6


@pytest.fixture
def images() -> UInt8Array:
    return np.random.default_rng(7).integers(0, 256, (9, SIZE, SIZE, 1), np.uint8)


def reference(saved_models: Path, name: str) -> tuple[UInt8Array, Float32Array]:
    with np.load(saved_models / name / "reference.npz") as arrays:
        return arrays["images"], arrays["probabilities"]


def test_a_batch_is_answered_with_a_row_of_probabilities_for_each_image(runtime: Runtime, images: UInt8Array) -> None:
    """uint8 [n, height, width, channels] in; float32 [n, classes] out, each row summing to 1."""
    answer = runtime.predict(images)
    assert answer.shape == (9, 3)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(answer, axis=0)) > 1


def test_an_image_gets_the_same_answer_alone_and_in_a_batch(runtime: Runtime, images: UInt8Array) -> None:
    """What else is in the batch makes no difference."""
    together = runtime.predict(images)
    alone = np.concatenate([runtime.predict(images[index : index + 1]) for index in range(len(images))])
    np.testing.assert_allclose(alone, together, atol=tolerance(runtime))


def test_an_empty_batch_has_an_empty_answer(runtime: Runtime, images: UInt8Array) -> None:
    """No image: [0, classes]."""
    answer = runtime.predict(images[:0])
    assert answer.shape == (0, 3)
    assert answer.dtype == np.float32


def test_calls_from_several_threads_do_not_mix(runtime: Runtime, images: UInt8Array) -> None:
    """Each thread gets the answer to its own images, also where there are more threads than lanes."""
    expected = runtime.predict(images)

    def predict(index: int) -> bool:
        rows = [index % 9, (index * 5 + 2) % 9][: 1 + index % 2]
        return np.allclose(runtime.predict(images[rows], alone=index % 5 == 0), expected[rows], atol=tolerance(runtime))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(predict, range(200)))


def test_an_answer_stays_as_it_was_when_the_next_one_comes(runtime: Runtime, images: UInt8Array) -> None:
    """No buffer of the engine's is handed out."""
    first = runtime.predict(images[:1])
    copy = first.copy()
    runtime.predict(images[1:2])
    np.testing.assert_array_equal(first, copy)


def test_an_image_alone_in_the_process_gets_the_same_answer(runtime: Runtime, images: UInt8Array) -> None:
    """However many threads the engine takes for it."""
    expected = runtime.predict(images[:3])
    for index in range(3):
        answer = runtime.predict(images[index : index + 1], alone=True)
        np.testing.assert_allclose(answer[0], expected[index], atol=tolerance(runtime))
    np.testing.assert_allclose(runtime.predict(images[:3], alone=True), expected, atol=tolerance(runtime))


@pytest.mark.parametrize("count", [1, 2, 3, 8, 9, 13, 35])
def test_batches_of_every_size_are_answered(runtime: Runtime, images: UInt8Array, count: int) -> None:
    """Also of sizes that an engine has to split."""
    single = np.concatenate([runtime.predict(images[i : i + 1]) for i in range(len(images))])
    rows = np.arange(count) % len(images)
    np.testing.assert_allclose(runtime.predict(images[rows]), single[rows], atol=tolerance(runtime))


def test_images_that_are_a_view_are_read_right(runtime: Runtime, images: UInt8Array) -> None:
    """The memory of a batch need be neither contiguous nor writable."""
    images.flags.writeable = False
    np.testing.assert_allclose(runtime.predict(images[::-1]), runtime.predict(images)[::-1], atol=tolerance(runtime))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_closed_runtime_says_so(saved_models: Path, engine: str, images: UInt8Array) -> None:
    """A call after `close` is an InferenceFailed, and closing twice does no harm."""
    runtime = open_engine(engine, saved_models / "plain", manifest())
    runtime.close()
    with pytest.raises(InferenceFailed, match="unloaded"):
        runtime.predict(images)
    runtime.close()


@pytest.mark.parametrize(
    ("name", "changes"),
    [("plain", {}), ("logits", LOGITS), ("scaled", SCALED)],
    ids=["uint8 to probabilities", "logits", "float32 input"],
)
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "fake"])
def test_answers_are_those_of_tensorflow(saved_models: Path, engine: str, name: str, changes: dict[str, Any]) -> None:
    """In f32 to within 1e-5, in bf16 to what is allowed there, whether scaling and softmax are in the graph or in the
    manifest.
    """
    runtime = open_engine(engine, saved_models / name, manifest(**changes))
    images, expected = reference(saved_models, name)
    allowed = BF16_TOLERANCE if engine == "openvino in bf16" else 1e-5
    np.testing.assert_allclose(runtime.predict(images), expected, atol=allowed)
    runtime.close()


def test_bf16_is_computed_where_it_is_asked_for(saved_models: Path) -> None:
    """It is no other name for f32: the answers differ a little."""
    f32, bf16 = (open_engine(name, saved_models / "plain", manifest()) for name in ("openvino", "openvino in bf16"))
    images, _ = reference(saved_models, "plain")
    assert (f32.name, bf16.name) == ("openvino-f32", "openvino-bf16")
    assert 1e-6 < np.abs(f32.predict(images) - bf16.predict(images)).max() < BF16_TOLERANCE


@pytest.mark.parametrize("engine", ["openvino", "litert", "tensorflow"])
def test_a_folder_without_a_graph_is_refused(tmp_path: Path, engine: str) -> None:
    """The reason names the engine that could not read it."""
    for name in ("saved_model.pb", "model.tflite"):
        (tmp_path / name).write_bytes(b"no graph")
    with pytest.raises(VersionRefused, match=r"(OpenVINO|LiteRT) cannot read|TensorFlow cannot load"):
        open_engine(engine, tmp_path, manifest())


def test_a_version_without_a_litert_export_says_so(saved_models: Path) -> None:
    """With the way out: another engine."""
    with pytest.raises(VersionRefused, match=r"no model\.tflite.*FOVEA_RUNTIME=auto"):
        open_engine("litert", saved_models / "unreadable", manifest())


def test_openvino_goes_on_after_calls_that_failed(saved_models: Path, images: UInt8Array) -> None:
    """As often as there are lanes, and once more: none of them is lost."""
    runtime = load_openvino(saved_models / "plain", manifest(), lanes=2, threads=2)
    expected = runtime.predict(images)
    for _ in range(3):
        with pytest.raises(InferenceFailed, match="OpenVINO failed"):
            runtime.predict(images[:, :5])
    for _ in range(3):
        np.testing.assert_allclose(runtime.predict(images), expected, atol=1e-6)
    runtime.close()


def test_openvino_computes_on_the_thread_that_asks(saved_models: Path, images: UInt8Array) -> None:
    """With several lanes too: a call is not handed over to another thread and back."""
    runtime = load_openvino(saved_models / "plain", manifest(), lanes=2, threads=2)
    batch = images[np.arange(64) % len(images)]
    runtime.predict(batch)

    def share() -> float:
        """Of the processor time of some calls, what was spent on the thread that made them."""
        process, thread = time.process_time(), time.thread_time()
        for _ in range(20):
            runtime.predict(batch)
        return (time.thread_time() - thread) / (time.process_time() - process)

    with ThreadPoolExecutor(1) as lane:
        assert lane.submit(share).result() > 0.7
    runtime.close()


def count_compiling(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """The properties of what OpenVINO compiles from now on."""
    compiled = []
    compile_model = openvino_runtime._Opener._compile

    def counted(self: Any, properties: dict[str, object]) -> Any:
        compiled.append(properties)
        return compile_model(self, properties)

    monkeypatch.setattr(openvino_runtime._Opener, "_compile", counted)
    return compiled


def test_openvino_compiles_once_for_all_lanes(
    saved_models: Path, images: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing compiled is kept on disk: the copies are made in memory."""
    compiled = count_compiling(monkeypatch)
    runtime = load_openvino(saved_models / "plain", manifest(), lanes=3, threads=3)
    assert [properties["NUM_STREAMS"] for properties in compiled] == [1]
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(runtime.predict, [images] * 8)]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer, answers[0], atol=1e-6)
    runtime.close()


def test_openvino_compiles_for_each_lane_what_cannot_be_copied(
    saved_models: Path, images: UInt8Array, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The version is served all the same."""
    monkeypatch.setattr(openvino_runtime, "_exported", lambda _: b"nothing of the kind")
    compiled = count_compiling(monkeypatch)
    runtime = load_openvino(saved_models / "plain", manifest(), lanes=2, threads=2)
    assert len(compiled) == 3
    assert "a compiled model cannot be used" in caplog.text
    assert runtime.predict(images).shape == (9, 3)
    runtime.close()


def test_with_many_lanes_openvino_holds_a_model_once(
    saved_models: Path, images: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dozens of copies would take long to make, however small; each lane and the event loop has a stream."""
    compiled = count_compiling(monkeypatch)
    runtime = load_openvino(saved_models / "plain", manifest(), lanes=9, threads=18)
    assert [(each["NUM_STREAMS"], each["INFERENCE_NUM_THREADS"]) for each in compiled] == [(10, 20)]
    assert runtime.predict(images).shape == (9, 3)
    runtime.close()


QUEUES: dict[str, Callable[[Any], SimpleQueue[Any]]] = {
    "openvino": lambda runtime: runtime._narrow._idle,
    "litert": lambda runtime: runtime._lanes,
}


@pytest.mark.parametrize("engine", QUEUES)
def test_the_event_loop_need_not_wait_for_a_lane(saved_models: Path, images: UInt8Array, engine: str) -> None:
    """It runs small models itself, and all lanes may be at work then."""
    runtime = open_engine(engine, saved_models / "plain", manifest())
    idle = QUEUES[engine](runtime)
    at_work = idle.get()
    with ThreadPoolExecutor(1) as loop:
        answer = loop.submit(runtime.predict, images)
        try:
            assert answer.result(10).shape == (9, 3)
        finally:
            idle.put(at_work)
    runtime.close()


@pytest.mark.parametrize("engine", QUEUES)
def test_of_a_large_model_nothing_more_is_held_than_the_lanes_need(
    saved_models: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop does not run it."""
    monkeypatch.setattr(spare, "MOST_BYTES", 0)
    runtime = open_engine(engine, saved_models / "plain", manifest())
    assert QUEUES[engine](runtime).qsize() == 1
    runtime.close()


def test_a_large_openvino_model_is_held_once_and_serves_all_lanes(
    saved_models: Path, images: UInt8Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy for each lane would take too much memory; the answers are the same."""
    expected = load_openvino(saved_models / "plain", manifest(), lanes=2, threads=2).predict(images)
    monkeypatch.setattr(openvino_runtime, "MAX_COPIES", 0)
    monkeypatch.setattr(spare, "MOST_BYTES", 0)
    opened = count_compiling(monkeypatch)
    runtime = load_openvino(saved_models / "plain", manifest(), lanes=2, threads=2)
    assert [properties["NUM_STREAMS"] for properties in opened] == [2]
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda index: runtime.predict(images[index : index + 1]), range(len(images)))]
    np.testing.assert_allclose(np.concatenate(answers), expected, atol=1e-6)
    runtime.close()
