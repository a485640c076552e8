"""The Open Inference Protocol by HTTP: what Triton's client does not send, and what nobody should."""

from __future__ import annotations

import base64
import json
import struct
from contextlib import suppress
from typing import Any, cast

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.protocols.inference import DTYPES
from app.api.protocols.openinference import Infer, ways
from app.api.ways import Head
from app.errors import FoveaError
from app.serving.tensors import Tensor
from app.store.manifest import TensorSpec
from app.store.registry import Registry
from tests.api.conftest import API, Keyring, StartAPI
from tests.api.test_direct import Line
from tests.serving.versions import LOGITS, SCALED, SIZE, add_version, gray

pytestmark = pytest.mark.anyio

IMAGE = gray(200)
TEXT = base64.b64encode(IMAGE).decode()
PATH = "/v2/models/shapes/infer"
HEADER = "Inference-Header-Content-Length"
PIXELS = np.full((1, SIZE, SIZE, 1), 200, np.uint8)
ENCODED: dict[str, Any] = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [TEXT]}
TENSOR: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": list(PIXELS.shape), "data": PIXELS.tolist()}


def binary(document: object, *tensors: bytes) -> tuple[bytes, dict[str, str]]:
    """A body and its headers."""
    text = json.dumps(document).encode()
    return b"".join((text, *tensors)), {HEADER: str(len(text))}


def in_binary(tensor: dict[str, Any], size: int) -> dict[str, Any]:
    """An input whose elements, of so many bytes, follow the JSON."""
    return {
        **{name: value for name, value in tensor.items() if name != "data"},
        "parameters": {"binary_data_size": size},
    }


async def native(api: API) -> list[float]:
    """Our own route's probabilities of `IMAGE`, by class."""
    answer = await api.client.post("/api/v1/predict?top_k=0", content=IMAGE)
    top = sorted(answer.json()["predictions"][0]["top"], key=lambda entry: entry["class_index"])
    return [entry["probability"] for entry in top]


FORMS: list[dict[str, Any]] = [
    ENCODED,
    {**ENCODED, "shape": [1, 1], "data": [[TEXT]]},
    TENSOR,
    {**TENSOR, "data": PIXELS.ravel().tolist()},
    {**TENSOR, "data": [float(value) for value in PIXELS.ravel()]},
]


@pytest.mark.parametrize("place", ["", "/versions/1"])
async def test_json_is_answered_as_by_our_own_route(api: API, place: str) -> None:
    """Encoded images and tensors, flat or nested, give the same probabilities to the last bit."""
    output = {"name": "probabilities", "datatype": "FP32", "shape": [1, 3], "data": await native(api)}
    for tensor in FORMS:
        answer = await api.client.post(f"/v2/models/shapes{place}/infer", json={"id": "7", "inputs": [tensor]})
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.json() == {"model_name": "shapes", "model_version": "1", "id": "7", "outputs": [output]}


async def test_a_bare_image_is_a_request(api: API) -> None:
    """With the header at 0 the body is one encoded image; the answer is binary."""
    answer = await api.client.post(PATH, content=IMAGE, headers={HEADER: "0"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    length = int(answer.headers[HEADER])
    [output] = json.loads(answer.content[:length])["outputs"]
    assert (output["shape"], output["parameters"]) == ([1, 3], {"binary_data_size": 12})
    assert np.frombuffer(answer.content[length:], "<f4").tolist() == await native(api)


@pytest.mark.parametrize("form", ["json", "binary tensor", "binary image"])
async def test_a_small_request_goes_past_asgi_to_the_same_answer(api: API, form: str) -> None:
    """In one piece, it never reaches the application, and is answered by the same bytes."""
    headers: dict[str, str] = {}
    if form == "json":
        body = json.dumps({"inputs": [ENCODED]}).encode()
    elif form == "binary tensor":
        body, headers = binary({"inputs": [in_binary(TENSOR, PIXELS.size)]}, PIXELS.tobytes())
    else:
        elements = struct.pack("<I", len(IMAGE)) + IMAGE
        body, headers = binary({"inputs": [in_binary(ENCODED, len(elements))]}, elements)
    ordinary = await api.client.post(PATH, content=body, headers=headers)
    line = Line(api)
    lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n{''.join(lines)}Content-Length: {len(body)}\r\n\r\n"
    reply = await line.send(head.encode() + body)
    assert line.asked == []
    assert (reply.status, reply.document) == (200, ordinary.json())


async def test_tensors_are_views_of_the_body() -> None:
    """No copy is made of them before the engine's batch."""
    pair = np.concatenate([PIXELS, PIXELS])
    body, headers = binary({"inputs": [in_binary({**TENSOR, "shape": list(pair.shape)}, pair.size)]}, pair.tobytes())
    images = read(body, headers)
    assert len(images) == 2
    whole = np.frombuffer(body, np.uint8)
    assert all(isinstance(image, Tensor) and np.shares_memory(image.values, whole) for image in images)


def read(body: bytes, headers: dict[str, str], *, most: int = 64) -> Any:
    """The images of a body, as the route reads them."""
    lower = {name.lower(): value for name, value in headers.items()}
    return Infer(Head({"model": "shapes"}, b"", lower, most)).images(body)


async def test_binary_bodies_are_not_counted_as_if_they_were_parsed() -> None:
    """What follows the JSON may be copied, and a bare image is not even that."""
    [way, _] = ways()
    body = b"{" + b"," * 1_000_000

    def weight(headers: dict[str, str]) -> int:
        assert way.weight is not None
        return way.weight(Head({}, b"", headers, 64), body)

    assert weight({HEADER.lower(): "0"}) == 0
    assert len(body) < weight({HEADER.lower(): "1"}) < 1.1 * len(body)
    assert weight({HEADER.lower(): str(len(body))}) > weight({}) > 10 * len(body)


# Names and types


async def test_inputs_and_outputs_have_the_names_of_the_graph_too(start: StartAPI, registry: Registry) -> None:
    """An imported network's own names work, and the answer has the one that was asked for."""
    names: dict[str, Any] = {
        "input": TensorSpec(name="input_1", dtype="uint8", shape=(-1, SIZE, SIZE, 1)),
        "output": TensorSpec(name="dense", dtype="float32", shape=(-1, 3)),
    }
    add_version(registry, "foreign", promote=True, **names)
    api = await start()
    path = "/v2/models/foreign"
    about = (await api.client.get(path)).json()
    assert [tensor["name"] for tensor in about["inputs"] + about["outputs"]] == ["input_1", "image_bytes", "dense"]
    for own, asked, answered in [
        ("input_1", ["dense"], "dense"),
        ("image", ["probabilities"], "probabilities"),
        ("image", [], "dense"),
    ]:
        document = {"inputs": [{**TENSOR, "name": own}], "outputs": [{"name": name} for name in asked]}
        answer = await api.client.post(f"{path}/infer", json=document)
        assert [output["name"] for output in answer.json()["outputs"]] == [answered]
        # TensorFlow Serving's route knows them by the same names.
        instance = np.zeros((SIZE, SIZE, 1)).tolist()
        rows = await api.client.post("/v1/models/foreign:predict", json={"instances": [{own: instance}]})
        assert rows.status_code == 200, rows.text
    refused = await api.client.post(f"{path}/infer", json={"inputs": [{**TENSOR, "name": "input_2"}]})
    allowed = "Allowed: 'image_bytes' for encoded images, 'input_1' or 'image' for tensors."
    assert refused.status_code == 400
    assert refused.json() == {"error": f"foreign has no input 'input_2' for tensors. {allowed}"}


async def test_probabilities_are_not_called_logits(start: StartAPI, registry: Registry) -> None:
    """Where the graph's output is not what is answered, its name is none of the answer's."""
    add_version(registry, "raw", promote=True, **cast(dict[str, Any], LOGITS))
    api = await start()
    assert (await api.client.get("/v2/models/raw")).json()["outputs"][0]["name"] == "probabilities"
    answer = await api.client.post("/v2/models/raw/infer", json={"inputs": [ENCODED], "outputs": [{"name": "logits"}]})
    assert (answer.status_code, answer.json()) == (
        400,
        {"error": "raw has no output 'logits'. Allowed: 'probabilities'."},
    )


@pytest.mark.parametrize("form", ["json", "binary"])
async def test_every_datatype_is_read_and_compared_with_the_models(api: API, form: str) -> None:
    """What the model takes is answered; what it does not take is named, with what it takes."""
    for datatype, dtype in DTYPES.items():
        array = np.ones(PIXELS.shape, dtype)
        tensor = {**TENSOR, "datatype": datatype, "data": array.tolist()}
        body, headers = json.dumps({"inputs": [tensor]}).encode(), dict[str, str]()
        if form == "binary":
            body, headers = binary({"inputs": [in_binary(tensor, array.nbytes)]}, array.tobytes())
        answer = await api.client.post(PATH, content=body, headers=headers)
        if datatype == "UINT8":
            assert answer.status_code == 200
        else:
            expected = (
                f"The tensor of an image is {dtype.name}; shapes takes uint8 [28, 28, 1] for each image, preprocessed."
            )
            assert (answer.status_code, answer.json()["error"]) == (400, expected)


async def test_numbers_of_no_image_do_not_end_a_version(start: StartAPI, registry: Registry) -> None:
    """NaN in a client's tensor is the client's fault: the model stays ready."""
    add_version(registry, "scaled", promote=True, **SCALED)
    api = await start()
    array = np.full(PIXELS.shape, np.nan, np.float32)
    tensor = in_binary({**TENSOR, "datatype": "FP32"}, array.nbytes)
    body, headers = binary({"inputs": [tensor]}, array.tobytes())
    answer = await api.client.post("/v2/models/scaled/infer", content=body, headers=headers)
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert (await api.client.get("/v2/models/scaled/ready")).status_code == 200


# What is wrong is told

MANY = {**ENCODED, "shape": [65], "data": [TEXT] * 65}
CASES: dict[str, tuple[Any, int, str]] = {
    "no input": ({"inputs": []}, 400, "The request has 0 inputs. Allowed: one"),
    "both inputs": ({"inputs": [ENCODED, TENSOR]}, 400, "The request has 2 inputs. Allowed: one"),
    "inputs no list": ({"inputs": {"image": []}}, 400, '"inputs" has to be a list.'),
    "input no object": ({"inputs": ["image"]}, 400, 'inputs[0] has to be an object with "name", a string.'),
    "no shape": ({"inputs": [{**TENSOR, "shape": "1"}]}, 400, 'inputs[0] has to be an object with "shape", a list.'),
    "no data": ({"inputs": [{**TENSOR, "data": None}]}, 400, 'inputs[0]: "data" has to be a list'),
    "datatype": ({"inputs": [{**TENSOR, "datatype": "BF16"}]}, 400, "'BF16'. Allowed: BOOL, UINT8"),
    "bytes as image": ({"inputs": [{**ENCODED, "name": "image"}]}, 400, "encoded images as BYTES in the input"),
    "negative": ({"inputs": [{**TENSOR, "shape": [-1, 28, 28, 1]}]}, 400, "whole numbers from 0 up"),
    "axes": ({"inputs": [{**TENSOR, "shape": [28, 28, 1]}]}, 400, "Allowed: [n, height, width, channels]."),
    "none": ({"inputs": [{**TENSOR, "shape": [0, 28, 28, 1], "data": []}]}, 400, "holds no image"),
    "nothing": ({"inputs": [{**TENSOR, "shape": [1, 2**62, 0, 8], "data": []}]}, 400, "holds no element"),
    "too few": ({"inputs": [{**TENSOR, "data": [1, 2]}]}, 400, "data of the shape [2], and the shape [1, 28, 28, 1]"),
    "ragged": ({"inputs": [{**TENSOR, "data": [[1], [1, 2]]}]}, 400, "have to be of equal lengths"),
    "strings": ({"inputs": [{**TENSOR, "data": ["1"] * 784}]}, 400, "has to be numbers, as UINT8 has them."),
    "fractions": ({"inputs": [{**TENSOR, "data": [0.5] * 784}]}, 400, "has to be numbers, as UINT8 has them."),
    "large": ({"inputs": [{**TENSOR, "data": [256] * 784}]}, 400, "has to be numbers, as UINT8 has them."),
    "numbers as bytes": ({"inputs": [{**ENCODED, "data": [1]}]}, 400, "strings: encoded images as base64"),
    "not base64": ({"inputs": [{**ENCODED, "data": ["é"]}]}, 400, "not base64"),
    "not an image": ({"inputs": [{**ENCODED, "data": ["YWJj"]}]}, 415, "image"),
    "elements": ({"inputs": [{**ENCODED, "shape": [2]}]}, 400, "has 1 elements, and the shape [2]"),
    "many": ({"inputs": [MANY]}, 413, "holds 65 images; at most 64"),
    "binary without header": ({"inputs": [in_binary(TENSOR, 784)]}, 400, "header Inference-Header-Content-Length"),
    "shared memory": (
        {"inputs": [{**TENSOR, "parameters": {"shared_memory_region": "a"}}]},
        400,
        "'shared_memory_region' is not supported",
    ),
    "id": ({"id": 7, "inputs": [ENCODED]}, 400, '"id" has to be a string.'),
    "timeout": ({"inputs": [ENCODED], "parameters": {"timeout": -1}}, 400, "'timeout' has to be a whole number"),
    "parameters": ({"inputs": [ENCODED], "parameters": []}, 400, '"parameters" has to be an object.'),
    "flag": ({"inputs": [ENCODED], "parameters": {"binary_data_output": 1}}, 400, "has to be true or false"),
    "twice": ({"inputs": [ENCODED], "outputs": [{"name": "probabilities"}] * 2}, 400, "is asked for twice"),
    "classes": (
        {"inputs": [ENCODED], "outputs": [{"name": "probabilities", "parameters": {"classification": "2"}}]},
        400,
        "'classification' has to be a whole number",
    ),
}


async def test_what_is_wrong_is_named_with_what_is_allowed(api: API) -> None:
    """As an error of the protocol."""
    for case, (document, status, text) in CASES.items():
        answer = await api.client.post(PATH, json=document)
        assert (answer.status_code, set(answer.json())) == (status, {"error"}), case
        assert text in answer.json()["error"], case


async def test_the_bad_image_among_many_is_named(api: API) -> None:
    """By its place, from 0; also where it is not base64."""
    for text, words in (("bm8gaW1hZ2U=", "The image at index 2 (of 3, "), ("é", "the encoded image at index 2 is not")):
        document = {"inputs": [{**ENCODED, "shape": [3], "data": [TEXT, TEXT, text]}]}
        answer = await api.client.post(PATH, json=document)
        assert words in answer.json()["error"]


async def test_a_wrong_header_is_told(api: API) -> None:
    """A number that is none, or more than there is; JSON that is none."""
    for body, header, text in (
        (IMAGE, "x", "'x' is not allowed"),
        (IMAGE, "99999", "Inference-Header-Content-Length is 99999, and the body has"),
        (b"", "0", "The body is empty"),
        (b"{", "1", "not JSON"),
        (b"[]", "2", "JSON object"),
        (b"[" * 5000, "5000", "not JSON"),
        (b"\xff\xfe", "2", "not JSON"),
        (IMAGE, "9", "with 0 the body is one encoded image"),
    ):
        answer = await api.client.post(PATH, content=body, headers={HEADER: header})
        assert (answer.status_code, text in answer.json()["error"]) == (400, True), answer.text


WRONG: list[tuple[object, bytes, str]] = [
    (in_binary(TENSOR, 783), bytes(783), "has 783 bytes; UINT8 [1, 28, 28, 1] takes 784"),
    (
        in_binary(TENSOR, 784),
        bytes(783),
        '"binary_data_size" has to be a number of bytes; 783 of the body are left',
    ),
    (in_binary(TENSOR, 784), bytes(785), "The body has 1 bytes more"),
    (in_binary(TENSOR, -1), b"", '"binary_data_size" has to be a number of bytes'),
    ({**in_binary(TENSOR, 784), "data": [1]}, bytes(784), 'both "data" and "binary_data_size"'),
    (in_binary(ENCODED, 5), b"\x02\x00\x00\x00a", "ends within element 0"),
    (in_binary(ENCODED, 3), b"\x02\x00\x00", "ends within element 0"),
    (in_binary(ENCODED, 8), bytes(8), "has more than 1 elements"),
    (in_binary({**ENCODED, "shape": [2]}, 4), bytes(4), "has 1 elements, and the shape [2]"),
    (in_binary({**TENSOR, "shape": [2**40, 2**40, 1, 1]}, 1), b"a", f"holds {2**40} images"),
    (in_binary({**TENSOR, "shape": [1, 2**40, 1, 1]}, 1), b"a", f"takes {2**40}"),
    (in_binary({**TENSOR, "shape": [1, 0, 2**64 - 1, 3]}, 0), b"", "which holds no element"),
]


async def test_wrong_binary_tensors_are_told(api: API) -> None:
    """Too few bytes, too many, and lengths that lead out of the body."""
    for tensor, tensors, text in WRONG:
        body, headers = binary({"inputs": [tensor]}, tensors)
        answer = await api.client.post(PATH, content=body, headers=headers)
        assert answer.status_code in (400, 413), text
        assert text in answer.json()["error"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=4) | st.just(TEXT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["data", "b64", "timeout"]), inner),
    max_leaves=6,
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["image", "image_bytes"]) | values,
        "datatype": st.sampled_from(["BYTES", "UINT8", "FP16", "BOOL"]) | values,
        "shape": st.lists(st.integers(-1, 4), max_size=5) | values,
        "data": values,
        "parameters": st.none() | st.fixed_dictionaries({"binary_data_size": st.integers(-1, 9)}) | values,
    },
)
documents = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=2) | values},
    optional={"id": values, "outputs": st.lists(tensors, max_size=2) | values, "parameters": values},
)


@settings(max_examples=100, deadline=None)
@given(documents, st.binary(max_size=12), st.sampled_from([None, 0, 1]))
async def test_no_body_is_a_fault_of_ours(document: object, rest: bytes, header: int | None) -> None:
    """Whatever it is, it is read, or refused with an error of the domain."""
    text = json.dumps(document).encode()
    headers = {} if header is None else {HEADER: str(len(text) * header)}
    images = None
    with suppress(FoveaError):
        images = read(text + (rest if header else b""), headers, most=2)
    assert images is None or 1 <= len(images) <= 2


# Deadlines, readiness, scopes


async def test_a_timeout_in_the_body_is_a_deadline(api: API) -> None:
    """In microseconds; what cannot be answered by then is given up, and what can is answered."""
    for timeout, statuses in ((1, (429, 504)), (20_000_000, (200,)), (0, (200,))):
        document = {"inputs": [ENCODED], "parameters": {"timeout": timeout, "priority": 3}}
        answer = await api.client.post(PATH, json=document)
        assert answer.status_code in statuses, answer.text


async def test_a_service_that_is_not_ready_says_so(start: StartAPI, registry: Registry) -> None:
    """503 with both keys, for the service, a model and a version that is not loaded."""
    add_version(registry, "later")
    api = await start()
    ready = await api.client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()) == (200, {"live": True, "ready": True})
    api.services.lifecycle.stopping = True
    ready = await api.client.get("/v2/health/ready")
    assert (ready.status_code, ready.json()) == (503, {"live": True, "ready": False})
    assert (await api.client.get("/v2/models/shapes/ready")).status_code == 503
    api.services.lifecycle.stopping = False
    assert (await api.client.get("/v2/health/live")).json() == {"live": True}
    for place in ("later", "later/versions/1", "shapes/versions/2"):
        answer = await api.client.get(f"/v2/models/{place}/ready")
        assert (answer.status_code, answer.json()["ready"]) == (503, False)
        assert answer.json()["error"]
    for place, status in (("none", 404), ("shapes/versions/9", 404), ("shapes/versions/x", 400), ("Ä", 400)):
        answer = await api.client.get(f"/v2/models/{place}/ready")
        assert (answer.status_code, set(answer.json())) == (status, {"error"})


async def test_only_administrators_load_and_unload(start: StartAPI, keyring: Keyring) -> None:
    """Probes need no key; what tells of models, one for predictions."""
    api = await start(api_keys=keyring.path)

    async def call(path: str, name: str | None, method: str = "GET") -> int:
        headers = keyring.headers(name) if name else {}
        return (await api.client.request(method, path, headers=headers)).status_code

    assert await call("/v2/health/ready", None) == await call("/v2/models/shapes/ready", None) == 200
    assert await call("/v2/models/shapes", None) == 401
    assert await call("/v2/models/shapes", "predict") == await call("/v2/repository/index", "predict", "POST") == 200
    assert await call("/v2/repository/models/shapes/load", "predict", "POST") == 403
    assert await call("/v2/repository/models/shapes/load", "admin", "POST") == 200


async def test_index_lists_what_is_ready_on_demand(api: API) -> None:
    """All versions; or those that are loaded."""

    async def versions(**options: Any) -> list[str]:
        answer: httpx.Response = await api.client.post("/v2/repository/index", **options)
        return [entry["version"] for entry in answer.json()]

    assert await versions() == await versions(json={}) == ["1", "2"]
    assert await versions(json={"ready": True}) == ["1"]
    answer = await api.client.post("/v2/repository/index", json={"ready": "yes"})
    assert (answer.status_code, answer.json()) == (400, {"error": '"ready" has to be true or false.'})


async def test_a_version_that_was_refused_is_not_promised(start: StartAPI, registry: Registry) -> None:
    """From the first request that named it on, index and readiness have the reason."""
    broken = add_version(registry, forge=lambda images, answers: (images, answers[:, ::-1]))
    api = await start()
    path = f"/v2/models/shapes/versions/{broken}"
    answer = await api.client.post(f"{path}/infer", json={"inputs": [ENCODED]})
    assert (answer.status_code, "golden" in answer.json()["error"]) == (422, True)
    entries = {entry["version"]: entry for entry in (await api.client.post("/v2/repository/index")).json()}
    assert entries[str(broken)]["state"] == "UNAVAILABLE"
    assert entries[str(broken)]["reason"].startswith(f"Version {broken} of shapes is refused: ")
    assert "first request" in entries["2"]["reason"]
    ready = await api.client.get(f"{path}/ready")
    assert (ready.status_code, "is refused" in ready.text) == (503, True)


async def test_a_model_without_production_is_not_loaded_by_its_name(start: StartAPI, registry: Registry) -> None:
    """The answer says to promote; a version that is named is loaded, and can be let go with its model."""
    add_version(registry, "later")
    api = await start()
    path = "/v2/repository/models/later"
    answer = await api.client.post(f"{path}/load")
    assert (answer.status_code, "Promote one" in answer.json()["error"]) == (404, True)
    assert (await api.client.post(f"{path}/load", json={"parameters": {"version": 1}})).status_code == 200
    assert (await api.client.get("/v2/models/later/versions/1/ready")).status_code == 200
    assert (await api.client.post(f"{path}/unload")).status_code == 200
    assert (await api.client.get("/v2/models/later/versions/1/ready")).status_code == 503
    answer = await api.client.post(f"{path}/unload", json={"parameters": {"version": 9}})
    assert (answer.status_code, answer.json()["error"]) == (404, "Model later has no version 9. It has: 1.")


async def test_statistics_of_what_has_done_nothing_are_zero(api: API) -> None:
    """A version that never answered is there when it is named, and else only when it is loaded."""
    assert [entry["version"] for entry in (await api.client.get("/v2/models/stats")).json()["model_stats"]] == ["1"]
    [entry] = (await api.client.get("/v2/models/shapes/versions/2/stats")).json()["model_stats"]
    assert (entry["inference_count"], entry["execution_count"]) == (0, 0)
    assert entry["inference_stats"]["queue"] == {"count": 0, "ns": 0}
    for path in ("none/stats", "shapes/versions/9/stats"):
        assert (await api.client.get(f"/v2/models/{path}")).status_code == 404
