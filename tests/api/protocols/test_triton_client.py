"""Triton's own client for HTTP, unchanged, against a real server: what it asks for, it gets."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from app.preprocessing import UInt8Array
from app.store.registry import Registry
from tests.server import Server
from tests.serving.versions import SIZE, gray

LEVELS = (0, 90, 200)
TENSOR: UInt8Array = np.stack([np.full((SIZE, SIZE, 1), level, np.uint8) for level in LEVELS])
FILES = [gray(level) for level in LEVELS]


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Any]:
    """A client of the server."""
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="module")
def native(server: Server) -> list[list[float]]:
    """Our own route's probabilities of `FILES`, by class."""
    rows = []
    for file in FILES:
        top = server.client.post("/api/v1/predict?top_k=0", content=file).json()["predictions"][0]["top"]
        rows.append([entry["probability"] for entry in sorted(top, key=lambda entry: entry["class_index"])])
    return rows


def image(*, binary: bool = True) -> Any:
    """The input `image`."""
    tensor = triton.InferInput("image", TENSOR.shape, "UINT8")
    tensor.set_data_from_numpy(TENSOR, binary_data=binary)
    return tensor


def image_bytes(*, binary: bool = True) -> Any:
    """The input `image_bytes`; in JSON the client can send text only, so that it is base64 there."""
    files = FILES if binary else [base64.b64encode(file) for file in FILES]
    array = np.array(files, dtype=np.object_)
    tensor = triton.InferInput("image_bytes", array.shape, "BYTES")
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize("binary_output", [None, True, False], ids=["unsaid", "binary", "json"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
@pytest.mark.parametrize("make", [image, image_bytes])
def test_arrays_go_in_and_come_out(
    client: Any, native: list[list[float]], make: Any, binary: bool, binary_output: bool | None
) -> None:
    """As tensors and as encoded files, in binary and in JSON, each way: the same to the last bit."""
    outputs = None
    if binary_output is not None:
        outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary_output)]
    result = client.infer("shapes", [make(binary=binary)], outputs=outputs, request_id="some id")
    array = result.as_numpy("probabilities")
    assert (array.dtype, array.tolist()) == (np.float32, native)
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == ("shapes", "1", "some id")
    assert ("data" in response["outputs"][0]) == (binary_output is False)


@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_classes_are_named_on_demand(client: Any, native: list[list[float]], binary: bool) -> None:
    """The most probable first, each as `probability:index:label`."""
    outputs = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)]
    array = client.infer("shapes", [image()], outputs=outputs).as_numpy("probabilities")
    assert array.shape == (3, 2)
    first = [element.decode() if isinstance(element, bytes) else element for element in array[:, 0]]
    assert [text.split(":")[1:] for text in first] == [["0", "horizontal"], ["1", "vertical"], ["2", "diagonal"]]
    assert [float(text.split(":")[0]) for text in first] == [max(row) for row in native]


def test_requests_can_wait_for_their_answers_elsewhere(client: Any, native: list[list[float]]) -> None:
    """`async_infer`, with a version, a priority and a timeout."""
    asked = client.async_infer("shapes", [image()], model_version="2", priority=1, timeout=5_000_000)
    result = asked.get_result()
    assert result.as_numpy("probabilities").tolist() == native
    assert result.get_response()["model_version"] == "2"


def test_server_tells_of_itself(client: Any) -> None:
    """Live, ready, with a name, a version and the extensions that there are."""
    assert client.is_server_live()
    assert client.is_server_ready()
    about = client.get_server_metadata()
    assert (about["name"], bool(about["version"])) == ("fovea", True)
    assert {"binary_tensor_data", "classification", "model_repository", "statistics"} <= set(about["extensions"])


@pytest.mark.parametrize("version", ["", "1"])
def test_model_tells_what_it_takes_and_gives(client: Any, version: str) -> None:
    """Both inputs, of which a request has one, and the output."""
    assert client.is_model_ready("shapes", version)
    assert client.get_model_metadata("shapes", version) == {
        "name": "shapes",
        "versions": ["1", "2"],
        "platform": "tensorflow_savedmodel",
        "inputs": [
            {"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 1]},
            {"name": "image_bytes", "datatype": "BYTES", "shape": [-1]},
        ],
        "outputs": [{"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}],
    }


@pytest.mark.parametrize("version", ["", "1"])
def test_model_tells_how_it_is_configured(client: Any, version: str) -> None:
    """How many images a request may have, and tensors without the axis of the batch, as by gRPC."""
    assert client.get_model_config("shapes", version) == {
        "name": "shapes",
        "platform": "tensorflow_savedmodel",
        "max_batch_size": 64,
        "input": [
            {"name": "image", "data_type": "TYPE_UINT8", "dims": [SIZE, SIZE, 1]},
            {"name": "image_bytes", "data_type": "TYPE_STRING", "dims": [1]},
        ],
        "output": [{"name": "probabilities", "data_type": "TYPE_FP32", "dims": [3]}],
    }


def test_what_there_is_not_is_told_in_words(client: Any) -> None:
    """The client shows what its `error` says: of a model, of extensions that we have not, and of an empty name."""
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: client.get_model_config("none"), "There is no model 'none'"),
        (lambda: client.get_trace_settings(), "This service has no trace settings"),
        (lambda: client.get_trace_settings("shapes"), "This service has no trace settings"),
        (lambda: client.get_log_settings(), "This service has no log settings"),
        (lambda: client.get_system_shared_memory_status(), "This service has no shared memory"),
        (lambda: client.unregister_cuda_shared_memory("region"), "This service has no shared memory"),
        (lambda: client.infer("", [image()]), "empty place where the name of a model"),
    ]
    for ask, words in calls:
        with pytest.raises(InferenceServerException, match=words) as raised:
            ask()
        assert raised.value.status() == "404"


def test_repository_is_listed_loaded_and_unloaded(client: Any, server: Server) -> None:
    """A version that is loaded besides can be let go; the one in production stays, and the refusal says why."""
    client.load_model("shapes")
    client.infer("shapes", [image()], model_version="2")
    assert client.is_model_ready("shapes", "2")
    assert [(entry["version"], entry["state"]) for entry in client.get_model_repository_index()] == [
        ("1", "READY"),
        ("2", "READY"),
    ]
    with pytest.raises(InferenceServerException, match=r"Version 1 of shapes answers for it.*Promote another"):
        client.unload_model("shapes")
    assert client.is_model_ready("shapes", "2")
    path = "/v2/repository/models/shapes/unload"
    assert server.client.post(path, json={"parameters": {"version": "2"}}).status_code == 200
    assert not client.is_model_ready("shapes", "2")
    [_, second] = client.get_model_repository_index()
    assert (second["state"], second["reason"]) == (
        "UNAVAILABLE",
        "Version 2 of shapes is not loaded; the first request that names it has it loaded.",
    )
    assert client.is_model_ready("shapes")


def test_what_cannot_be_loaded_is_refused_with_the_reason(client: Any, server: Server) -> None:
    """Another configuration than the manifest's; a version that failed its checks."""
    with pytest.raises(InferenceServerException, match="'config' is not supported"):
        client.load_model("shapes", config=json.dumps({"max_batch_size": 8}))
    with pytest.raises(InferenceServerException, match="There is no model 'none'"):
        client.load_model("none")
    folder = Registry(server.folder / "store").folder("shapes", 2)
    answer = server.client.post("/v2/repository/models/shapes/load", json={"parameters": {"version": "2"}})
    assert answer.status_code == 200
    (folder / "stray").write_bytes(b"")
    answer = server.client.post("/v2/repository/models/shapes/load", json={"parameters": {"version": "2"}})
    assert (answer.status_code, "'stray'" in answer.json()["error"]) == (422, True)
    (folder / "stray").unlink()


def test_statistics_count_images_and_batches(client: Any) -> None:
    """What a version answered since the last look, and how long the engine took for it."""

    def first(found: Any) -> Any:
        [only] = [entry for entry in found["model_stats"] if entry["version"] == "1"]
        return only

    before = first(client.get_inference_statistics("shapes", "1"))
    client.infer("shapes", [image()])
    for found in (client.get_inference_statistics("shapes"), client.get_inference_statistics()):
        after = first(found)
        assert after["name"] == "shapes"
        assert after["inference_count"] - before["inference_count"] == 3
        assert 1 <= after["execution_count"] - before["execution_count"] <= 3
        took = after["inference_stats"]["compute_infer"]
        assert took["count"] == after["execution_count"]
        assert took["ns"] > before["inference_stats"]["compute_infer"]["ns"]


def test_errors_are_told_as_the_client_understands_them(client: Any) -> None:
    """The message and the status of what is wrong."""
    small = triton.InferInput("image", [1, 2, 2, 1], "UINT8")
    small.set_data_from_numpy(np.zeros((1, 2, 2, 1), np.uint8))
    wrong = triton.InferInput("image", TENSOR.shape, "FP32")
    wrong.set_data_from_numpy(TENSOR.astype(np.float32))
    other = triton.InferInput("pixels", TENSOR.shape, "UINT8")
    other.set_data_from_numpy(TENSOR)
    calls: list[tuple[dict[str, Any], str, str]] = [
        ({"inputs": [small]}, "400", r"shape \[2, 2, 1\]; shapes takes uint8 \[28, 28, 1\]"),
        ({"inputs": [wrong]}, "400", r"is float32; shapes takes uint8"),
        ({"inputs": [other]}, "400", r"no input 'pixels' for tensors. Allowed: .* 'image' for"),
        ({"inputs": [image()], "outputs": [triton.InferRequestedOutput("logits")]}, "400", "no output 'logits'"),
        ({"inputs": [image()], "model_name": "none"}, "404", "There is no model 'none'"),
        ({"inputs": [image()], "model_version": "9"}, "404", "no version 9"),
        ({"inputs": [image()], "sequence_id": 7}, "400", "sequences are not supported"),
        ({"inputs": [image()], "request_compression_algorithm": "gzip"}, "400", "Content-Encoding 'gzip'"),
    ]
    for arguments, status, message in calls:
        with pytest.raises(InferenceServerException, match=message) as raised:
            client.infer(**{"model_name": "shapes", **arguments})
        assert raised.value.status() == status
