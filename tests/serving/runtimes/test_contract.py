"""What every runtime must do, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import InferenceFailed, VersionRefused
from app.preprocessing import Float32Array, UInt8Array
from app.serving.runtimes.base import Runtime
from app.serving.runtimes.loading import runtime_loader
from tests.serving.versions import LOGITS, SCALED, SIZE, manifest

Load = Callable[..., Runtime]


@pytest.fixture(params=["openvino", "tensorflow", "fake"])
def load(request: pytest.FixtureRequest, saved_models: Path) -> Iterator[Load]:
    """Loads one of the SavedModels with the runtime under test; closes it at the end."""
    opened: list[Runtime] = []

    def load(name: str = "plain", **changes: Any) -> Runtime:
        runtime = runtime_loader(request.param)(saved_models / name, manifest(**changes), lanes=1, threads=1)
        opened.append(runtime)
        return runtime

    yield load
    for runtime in opened:
        runtime.close()


@pytest.fixture(scope="module")
def images() -> UInt8Array:
    return np.random.default_rng(7).integers(0, 256, (9, SIZE, SIZE, 1), np.uint8)


def reference(saved_models: Path, name: str) -> tuple[UInt8Array, Float32Array]:
    with np.load(saved_models / name / "reference.npz") as arrays:
        return arrays["images"], arrays["probabilities"]


def test_a_batch_is_answered_with_a_row_of_probabilities_for_each_image(load: Load, images: UInt8Array) -> None:
    """uint8 [n, height, width, channels] in; float32 [n, classes] out, each row summing to 1."""
    answer = load().predict(images)
    assert answer.shape == (9, 3)
    assert answer.dtype == np.float32
    np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    assert len(np.unique(answer, axis=0)) > 1


def test_an_image_gets_the_same_answer_alone_and_in_a_batch(load: Load, images: UInt8Array) -> None:
    """What else is in the batch makes no difference."""
    runtime = load()
    together = runtime.predict(images)
    alone = np.concatenate([runtime.predict(images[index : index + 1]) for index in range(len(images))])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_an_empty_batch_has_an_empty_answer(load: Load, images: UInt8Array) -> None:
    """No image: [0, classes]."""
    answer = load().predict(images[:0])
    assert answer.shape == (0, 3)
    assert answer.dtype == np.float32


def test_calls_from_several_threads_do_not_mix(load: Load, images: UInt8Array) -> None:
    """Each thread gets the answer to its own images."""
    runtime = load()
    expected = runtime.predict(images)

    def predict(index: int) -> bool:
        rows = [index % 9, (index * 5 + 2) % 9][: 1 + index % 2]
        return np.allclose(runtime.predict(images[rows]), expected[rows], atol=1e-6)

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(predict, range(200)))


def test_an_answer_stays_as_it_was_when_the_next_one_comes(load: Load, images: UInt8Array) -> None:
    """No buffer of the engine's is handed out."""
    runtime = load()
    first = runtime.predict(images[:1])
    copy = first.copy()
    runtime.predict(images[1:2])
    np.testing.assert_array_equal(first, copy)


def test_images_that_are_a_view_are_read_right(load: Load, images: UInt8Array) -> None:
    """The memory of a batch need not be contiguous."""
    runtime = load()
    np.testing.assert_allclose(runtime.predict(images[::-1]), runtime.predict(images)[::-1], atol=1e-6)


def test_a_closed_runtime_says_so(load: Load, images: UInt8Array) -> None:
    """A call after `close` is an InferenceFailed, and closing twice does no harm."""
    runtime = load()
    runtime.close()
    with pytest.raises(InferenceFailed, match="unloaded"):
        runtime.predict(images)
    runtime.close()


@pytest.mark.parametrize(
    ("name", "changes"),
    [("plain", {}), ("logits", LOGITS), ("scaled", SCALED)],
    ids=["uint8 to probabilities", "logits", "float32 input"],
)
@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_answers_are_those_of_tensorflow(saved_models: Path, engine: str, name: str, changes: dict[str, Any]) -> None:
    """In f32, to within 1e-5, whether scaling and softmax are in the graph or in the manifest."""
    runtime = runtime_loader(engine)(saved_models / name, manifest(**changes), lanes=1, threads=1)  # type: ignore[arg-type]
    images, expected = reference(saved_models, name)
    np.testing.assert_allclose(runtime.predict(images), expected, atol=1e-5)
    runtime.close()


@pytest.mark.parametrize("engine", ["openvino", "tensorflow"])
def test_a_folder_without_a_graph_is_refused(tmp_path: Path, engine: str) -> None:
    """The reason names the engine that could not read it."""
    (tmp_path / "saved_model.pb").write_bytes(b"no graph")
    with pytest.raises(VersionRefused, match=r"OpenVINO cannot read|TensorFlow cannot load"):
        runtime_loader(engine)(tmp_path, manifest(), lanes=1, threads=1)  # type: ignore[arg-type]
