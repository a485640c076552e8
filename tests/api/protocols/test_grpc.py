"""gRPC at a real server, with Triton's client, and with gRPC's own for health and reflection.

The clients run in this process, whose messages of the same names are others than the service's.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

from app.api.protocols.grpc_stubs import tensorflow_pb2, tensorflow_serving_pb2
from app.api.security import make_key
from app.preprocessing import to_array
from app.store.registry import Registry
from tests.server import Server, running, wait_for
from tests.serving.versions import LABELS, SIZE, add_version, gray, manifest

IMAGES = [gray(200), gray(3)]
BODY_BYTES = 64 * 1024


def address_of(server: Server) -> str:
    """Where its gRPC listens, as the banner says."""
    found = re.search(r"gRPC +(\S+:\d+)", server.output)
    assert found is not None, server.output
    return found[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With `shapes`, version 1 in production and version 2 not, and `other`."""
    folder = tmp_path_factory.mktemp("grpc")
    registry = Registry(folder / "store")
    add_version(registry, promote=True)
    add_version(registry)
    add_version(registry, "other", promote=True)
    with running(
        folder, grpc_port=0, max_body_bytes=BODY_BYTES, max_files=8, body_timeout=1, default_model="shapes"
    ) as server:
        yield server


@pytest.fixture(scope="module")
def address(server: Server) -> str:
    """Of its gRPC."""
    return address_of(server)


@pytest.fixture
def client(address: str) -> Iterator[Any]:
    """Triton's."""
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture
def channel(address: str) -> Iterator[Any]:
    """A bare one, of no protocol."""
    with grpc.insecure_channel(address) as channel:
        yield channel


def encoded(images: list[bytes]) -> Any:
    """Triton's input of encoded images."""
    tensor = triton.InferInput("image_bytes", [len(images)], "BYTES")
    tensor.set_data_from_numpy(np.array(images, dtype=object))
    return tensor


def native(server: Server, images: list[bytes], query: str = "top_k=0") -> list[list[float]]:
    """Our own route's probabilities, by class."""
    rows = []
    for image in images:
        document = server.client.post(f"/api/v1/predict?{query}", content=image).json()
        top = sorted(document["predictions"][0]["top"], key=lambda entry: int(entry["class_index"]))
        rows.append([entry["probability"] for entry in top])
    return rows


def refusal(ask: Callable[[], object]) -> tuple[str, str]:
    """Status and words with which Triton's client is refused."""
    with pytest.raises(InferenceServerException) as caught:
        ask()
    return caught.value.status(), caught.value.message()


def ask_raw(channel: Any, method: str, message: bytes, **options: Any) -> bytes:
    """Call a method with bytes, which need not be a message."""
    answer: bytes = channel.unary_unary(method)(message, timeout=options.pop("timeout", 20), **options)
    return answer


INFER = "/inference.GRPCInferenceService/ModelInfer"


def test_encoded_images_are_answered_as_by_our_own_route(server: Server, client: Any) -> None:
    """The same picture gives the same probabilities to the last bit, in NumPy's arrays; the id comes back."""
    result = client.infer("shapes", [encoded(IMAGES)], request_id="seven")
    assert result.as_numpy("probabilities").tolist() == native(server, IMAGES)
    response = result.get_response()
    assert (response.model_name, response.model_version, response.id) == ("shapes", "1", "seven")


def test_tensors_pass_as_they_are(server: Server, client: Any) -> None:
    """Preprocessed by the sender, whole batches of numbers are answered as the files are."""
    arrays = np.stack([to_array(image, manifest().preprocessing) for image in IMAGES])
    tensor = triton.InferInput("image", list(arrays.shape), "UINT8")
    tensor.set_data_from_numpy(arrays)
    assert client.infer("shapes", [tensor], "1").as_numpy("probabilities").tolist() == native(server, IMAGES)


@pytest.mark.parametrize("kind", ["uint_contents", "bytes_contents"])
def test_contents_need_not_be_raw(server: Server, channel: Any, kind: str) -> None:
    """In the fields of their type they mean the same."""
    request = service_pb2.ModelInferRequest(model_name="shapes")
    if kind == "uint_contents":
        array = to_array(IMAGES[0], manifest().preprocessing)
        tensor = request.inputs.add(name="image", datatype="UINT8", shape=[1, *array.shape])
        tensor.contents.uint_contents.extend(array.ravel().tolist())
    else:
        tensor = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1])
        tensor.contents.bytes_contents.append(IMAGES[0])
    answer = service_pb2.ModelInferResponse.FromString(ask_raw(channel, INFER, request.SerializeToString()))
    assert np.frombuffer(answer.raw_output_contents[0], "<f4").tolist() == native(server, IMAGES[:1])[0]


def test_the_bad_image_among_many_is_named(client: Any) -> None:
    """By its place, from 0."""
    status, words = refusal(lambda: client.infer("shapes", [encoded([*IMAGES, b"no image"])]))
    assert status == "StatusCode.INVALID_ARGUMENT"
    assert words.startswith("The image at index 2 (of 3, the first is 0): Not an image")


def test_the_most_probable_classes_are_named(server: Server, client: Any) -> None:
    """The classification extension gives `probability:index:label`, the most probable first."""
    wanted = triton.InferRequestedOutput("probabilities", class_count=2)
    [named] = client.infer("shapes", [encoded(IMAGES[:1])], outputs=[wanted]).as_numpy("probabilities").tolist()
    [row] = native(server, IMAGES[:1])
    best = sorted(range(3), key=row.__getitem__, reverse=True)[:2]
    assert [element.decode() for element in named] == [f"{row[index]}:{index}:{LABELS[index]}" for index in best]


def test_what_there_is_is_told(client: Any) -> None:
    """Health, metadata, configuration, the repository and statistics answer Triton's client."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("shapes", "1")
    assert not client.is_model_ready("shapes", "2")
    # Of what there is not it is an answer too, and no error.
    assert not client.is_model_ready("shapes", "9")
    assert not client.is_model_ready("nothing")
    assert not client.is_model_ready("No name of ours")
    assert client.get_server_metadata().name == "fovea"
    metadata = client.get_model_metadata("shapes")
    assert list(metadata.versions) == ["1", "2"]
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [
        ("image", "UINT8", [-1, SIZE, SIZE, 1]),
        ("image_bytes", "BYTES", [-1]),
    ]
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.outputs] == [
        ("probabilities", "FP32", [-1, 3])
    ]
    config = client.get_model_config("shapes").config
    assert (config.max_batch_size, list(config.input[0].dims)) == (8, [SIZE, SIZE, 1])
    index = client.get_model_repository_index().models
    assert [(each.name, each.version, each.state) for each in index][:2] == [
        ("other", "1", "READY"),
        ("shapes", "1", "READY"),
    ]
    client.infer("other", [encoded(IMAGES[:1])])
    [statistics] = client.get_inference_statistics("other").model_stats
    assert statistics.inference_count == 1


def test_a_version_is_loaded_and_unloaded_by_its_number(client: Any) -> None:
    """Beside the one in production, which stays."""
    client.load_model("shapes")
    assert refusal(lambda: client.unload_model("shapes"))[0] == "StatusCode.FAILED_PRECONDITION"
    assert client.is_model_ready("shapes")


def test_a_stream_is_answered_in_its_order(server: Server, address: str) -> None:
    """Requests of one stream are answered in the order in which they came, errors among them with their words."""
    answers: Queue[tuple[Any, Any]] = Queue()
    with triton.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for number in range(20):
            client.async_stream_infer("nothing" if number == 7 else "shapes", [encoded(IMAGES)], request_id=str(number))
        found = [answers.get(timeout=20) for _ in range(20)]
        client.stop_stream()
    assert [result and result.get_response().id for result, _ in found] == [
        None if number == 7 else str(number) for number in range(20)
    ]
    assert "'nothing'" in found[7][1].message()
    assert found[8][0].as_numpy("probabilities").tolist() == native(server, IMAGES)


def _with(name: str, datatype: str, shape: list[int], raw: bytes, **parameters: Any) -> Any:
    request = service_pb2.ModelInferRequest(model_name="shapes", raw_input_contents=[raw])
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    for key, value in parameters.items():
        tensor.parameters[key].string_param = value
    return request


WRONG: dict[str, tuple[Any, str, str]] = {
    "no input": (service_pb2.ModelInferRequest(model_name="shapes"), "INVALID_ARGUMENT", "0 inputs"),
    "model's name": (service_pb2.ModelInferRequest(model_name="../etc"), "INVALID_ARGUMENT", "not a valid model name"),
    "version": (
        service_pb2.ModelInferRequest(model_name="shapes", model_version="one"),
        "INVALID_ARGUMENT",
        "'one' is not allowed",
    ),
    "datatype": (_with("image", "FLOAT", [1], b""), "INVALID_ARGUMENT", "'FLOAT'"),
    "input's name": (
        _with("pixels", "UINT8", [1, SIZE, SIZE, 1], bytes(SIZE * SIZE)),
        "INVALID_ARGUMENT",
        "no input 'pixels' for tensors. Allowed: 'image_bytes' for encoded images, 'image' for tensors",
    ),
    "length": (_with("image", "UINT8", [1, SIZE, SIZE, 1], b"12"), "INVALID_ARGUMENT", "has 2 bytes"),
    "shape": (_with("image", "UINT8", [1, 2, 2, 1], b"1234"), "INVALID_ARGUMENT", "28, 28, 1"),
    "many": (_with("image_bytes", "BYTES", [9], b""), "INVALID_ARGUMENT", "at most 8"),
    "no image": (_with("image_bytes", "BYTES", [1], b"\x03\0\0\0abc"), "INVALID_ARGUMENT", "Not an image"),
    "shared memory": (
        _with("image", "UINT8", [1], b"", shared_memory_region="x"),
        "INVALID_ARGUMENT",
        "shared_memory_region",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(channel: Any, case: str) -> None:
    """Errors of the domain have a status code and words; the request's id comes along."""
    request, code, words = WRONG[case]
    with pytest.raises(grpc.RpcError) as caught:
        ask_raw(channel, INFER, request.SerializeToString(), metadata=[("x-request-id", "mine")])
    error: Any = caught.value
    assert error.code().name == code, error.details()
    assert words in error.details()
    assert dict(error.trailing_metadata())["x-request-id"] == "mine"


def test_an_unknown_model_or_version_is_not_found(client: Any) -> None:
    """And the words say which there are."""
    status, words = refusal(lambda: client.infer("nothing", [encoded(IMAGES)]))
    assert (status, "shapes" in words) == ("StatusCode.NOT_FOUND", True)
    assert refusal(lambda: client.infer("shapes", [encoded(IMAGES)], "9"))[0] == "StatusCode.NOT_FOUND"
    assert refusal(lambda: client.get_model_metadata("nothing"))[0] == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (b"\xff" * 20, "not what the method takes"),
        (b"\x2a\x7f", "not what the method takes"),
        (b"\x2a\x00" * 25_000, "more than 20000 fields"),
        (b"\x2a" + b"\xd0\x86\x03" + b"\x22\x00" * 25_000, "more than 20000 fields"),
        (b"\x0a\x01\xff", "no ModelInferRequest"),
    ],
    ids=["noise", "cut", "many inputs", "many parameters", "no text"],
)
def test_what_is_no_message_is_refused_before_it_is_parsed(channel: Any, message: bytes, words: str) -> None:
    """Neither noise nor floods of empty fields, each of which would become an object, are a fault of the service."""
    with pytest.raises(grpc.RpcError) as caught:
        ask_raw(channel, INFER, message)
    error: Any = caught.value
    assert (error.code(), words in error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, True), error.details()


def test_messages_are_no_larger_than_bodies_and_come_as_they_are(channel: Any) -> None:
    """One above FOVEA_MAX_BODY_BYTES is refused, and so is a compressed one, which could become any size."""
    with pytest.raises(grpc.RpcError) as caught:
        ask_raw(channel, INFER, b"x" * (BODY_BYTES + 1))
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(grpc.RpcError) as caught:
        ask_raw(channel, INFER, b"x" * 1000, compression=grpc.Compression.Gzip)
    error = caught.value
    assert (error.code(), "gzip" in error.details()) == (grpc.StatusCode.UNIMPLEMENTED, True)


def test_a_message_that_does_not_come_is_not_waited_for(channel: Any) -> None:
    """Within FOVEA_BODY_TIMEOUT it has to be there."""
    hold = threading.Event()

    def nothing() -> Iterator[bytes]:
        hold.wait(20)
        yield b""

    try:
        with pytest.raises(grpc.RpcError) as caught:
            channel.stream_unary(INFER)(nothing(), timeout=60)
    finally:
        hold.set()
    error: Any = caught.value
    assert (error.code(), "within 1 s" in error.details()) == (grpc.StatusCode.DEADLINE_EXCEEDED, True)


def test_deadlines_are_kept(client: Any) -> None:
    """What could not be answered by the client's deadline, or within the parameter `timeout`, is given up."""
    status, _ = refusal(lambda: client.infer("shapes", [encoded(IMAGES)], timeout=1))
    assert status in ("StatusCode.DEADLINE_EXCEEDED", "StatusCode.RESOURCE_EXHAUSTED")
    status, _ = refusal(lambda: client.infer("shapes", [encoded(IMAGES)], client_timeout=1e-6))
    assert status == "StatusCode.DEADLINE_EXCEEDED"


def test_calls_are_in_log_and_metrics_like_requests(server: Server, channel: Any) -> None:
    """Under the method's path, with the status that the same error has by HTTP."""
    request = _with("image_bytes", "BYTES", [1], len(IMAGES[0]).to_bytes(4, "little") + IMAGES[0])
    ask_raw(channel, INFER, request.SerializeToString(), metadata=[("x-request-id", "told-1")])
    wait_for(lambda: f"request_id=told-1 method=POST route={INFER} status=200" in server.log)
    page = server.client.get("/metrics").text
    assert f'fovea_requests_total{{method="POST",route="{INFER}",status="200"}}' in page
    assert f'fovea_requests_total{{method="POST",route="{INFER}",status="400"}}' in page


def test_health_is_told_to_probes(channel: Any) -> None:
    """Of the whole, a service and a model; also to who watches."""
    stub = health_pb2_grpc.HealthStub(channel)
    serving = health_pb2.HealthCheckResponse.SERVING
    for name in ("", "inference.GRPCInferenceService", "shapes"):
        assert stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20).status == serving
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nothing"), timeout=20)
    error: Any = caught.value
    assert error.code() == grpc.StatusCode.NOT_FOUND
    watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=20)
    assert next(watching).status == serving
    watching.cancel()


def test_services_are_told_to_tools(channel: Any) -> None:
    """Reflection gives all services, and the messages of each method."""
    database = ProtoReflectionDescriptorDatabase(channel)
    services = set(database.get_services())
    assert {
        "inference.GRPCInferenceService",
        "tensorflow.serving.PredictionService",
        "grpc.health.v1.Health",
    } < services
    file = database.FindFileContainingSymbol("inference.GRPCInferenceService")
    methods = {method.name for method in file.service[0].method}
    for method in methods:
        # Those that exist complain of the message, and not of the method.
        try:
            channel.stream_stream(f"/inference.GRPCInferenceService/{method}")(iter([b"\xff"]), timeout=20).next()
        except grpc.RpcError as error:
            code: Any = error
            assert code.code() == grpc.StatusCode.INVALID_ARGUMENT, method
        except StopIteration:
            pass


def test_tensorflow_serving_predicts(server: Server, channel: Any) -> None:
    """PredictionService.Predict gives our own route's probabilities, for files and for tensors."""
    [row] = native(server, IMAGES[:1])
    request = tensorflow_serving_pb2.PredictRequest()
    request.model_spec.name = "shapes"
    request.model_spec.version.value = 1
    request.inputs["image_bytes"].dtype = tensorflow_pb2.DT_STRING
    request.inputs["image_bytes"].string_val.append(IMAGES[0])
    method = "/tensorflow.serving.PredictionService/Predict"
    array = to_array(IMAGES[0], manifest().preprocessing)
    numbers = tensorflow_serving_pb2.PredictRequest()
    numbers.model_spec.name = "shapes"
    numbers.inputs["image"].dtype = tensorflow_pb2.DT_UINT8
    numbers.inputs["image"].tensor_content = array.tobytes()
    for size in (1, *array.shape):
        numbers.inputs["image"].tensor_shape.dim.add(size=size)
    for asked in (request, numbers):
        answer = tensorflow_serving_pb2.PredictResponse.FromString(ask_raw(channel, method, asked.SerializeToString()))
        assert list(answer.outputs["probabilities"].float_val) == row
        assert [dim.size for dim in answer.outputs["probabilities"].tensor_shape.dim] == [1, 3]
        assert (answer.model_spec.name, answer.model_spec.version.value) == ("shapes", 1)
    numbers.inputs["picture"].CopyFrom(numbers.inputs["image"])
    del numbers.inputs["image"]
    request.model_spec.version_label = "canary"
    for asked, code, words in (
        (request, grpc.StatusCode.NOT_FOUND, "'canary'"),
        (numbers, grpc.StatusCode.INVALID_ARGUMENT, "no input 'picture'"),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            ask_raw(channel, method, asked.SerializeToString())
        error: Any = caught.value
        assert (error.code(), words in error.details()) == (code, True), error.details()


def test_tensorflow_serving_tells_how_versions_stand(channel: Any) -> None:
    """ModelService.GetModelStatus says what the route of REST says."""
    status = tensorflow_serving_pb2.GetModelStatusRequest()
    status.model_spec.name = "shapes"
    told = tensorflow_serving_pb2.GetModelStatusResponse.FromString(
        ask_raw(channel, "/tensorflow.serving.ModelService/GetModelStatus", status.SerializeToString())
    )
    states = tensorflow_serving_pb2.ModelVersionStatus
    assert [(each.version, each.state, each.status.error_code) for each in told.model_version_status] == [
        (2, states.START, 0),
        (1, states.AVAILABLE, 0),
    ]


def test_keys_are_asked_for_as_by_http(tmp_path: Path) -> None:
    """In the metadata, with the same scopes; health needs none. Two processes share the port, and end in good order."""
    add_version(Registry(tmp_path / "store"), promote=True)
    lines = {scope: make_key(scope, [scope]) for scope in ("predict", "train", "admin")}
    (tmp_path / "keys.txt").write_text("\n".join(line for _, line in lines.values()))
    with running(tmp_path, grpc_port=0, api_keys=tmp_path / "keys.txt", workers=2) as server:
        address = address_of(server)

        def ask(headers: dict[str, str]) -> str:
            with triton.InferenceServerClient(address) as client:
                try:
                    client.infer("shapes", [encoded(IMAGES)], headers=headers)
                except InferenceServerException as error:
                    return str(error.status()).removeprefix("StatusCode.")
            return "OK"

        assert ask({}) == "UNAUTHENTICATED"
        assert ask({"authorization": "Bearer fovea_no"}) == "UNAUTHENTICATED"
        assert ask({"authorization": f"Bearer {lines['train'][0]}"}) == "PERMISSION_DENIED"
        assert ask({"authorization": f"Bearer {lines['predict'][0]}"}) == "OK"
        assert ask({"x-api-key": lines["admin"][0]}) == "OK"
        with triton.InferenceServerClient(address) as client:
            assert client.is_server_ready()
            status, _ = refusal(lambda: client.load_model("shapes", headers={"x-api-key": lines["predict"][0]}))
            assert status == "StatusCode.PERMISSION_DENIED"
            assert refusal(lambda: client.get_model_repository_index())[0] == "StatusCode.UNAUTHENTICATED"
    assert server.process.returncode == 0, server.log


def test_many_large_messages_at_a_time_take_bounded_memory(tmp_path: Path) -> None:
    """gRPC puts messages together before we hear of them: of what is not read yet it takes in next to nothing."""
    with running(tmp_path, grpc_port=0) as server, grpc.insecure_channel(address_of(server)) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        status = Path(f"/proc/{server.process.pid}/status")

        def peak() -> int:
            found = re.search(r"VmHWM:\s+(\d+)", status.read_text())
            assert found is not None
            return int(found[1]) // 1024

        before, large = peak(), bytes(8_000_000)
        calls = [call.future(large, timeout=60) for _ in range(150)]
        assert {each.code() for each in calls} == {grpc.StatusCode.INVALID_ARGUMENT}
        # Of 1,200 MB. 32 are read at a time, and each may be there twice for a moment.
        assert peak() - before < 600
