"""TensorFlow Serving's REST API."""

from __future__ import annotations

import base64
import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.store.registry import Registry
from tests.api.conftest import API, StartAPI
from tests.api.test_direct import Line
from tests.serving.engines import Engines
from tests.serving.eventually import eventually
from tests.serving.versions import SIZE, add_version, gray

pytestmark = pytest.mark.anyio

IMAGE, OTHER = gray(200), gray(0)
ENCODED, BLACK = ({"b64": base64.b64encode(image).decode()} for image in (IMAGE, OTHER))
TENSOR, ZEROS = (np.full((SIZE, SIZE, 1), level).tolist() for level in (200, 0))
MODEL = "/v1/models/shapes"
PATH = f"{MODEL}:predict"


async def native(api: API, image: bytes = IMAGE) -> list[float]:
    """Our own route's probabilities, by class."""
    answer = await api.client.post("/api/v1/predict?top_k=0", content=image)
    top = sorted(answer.json()["predictions"][0]["top"], key=lambda entry: entry["class_index"])
    return [entry["probability"] for entry in top]


def refused(response: httpx.Response, status: int) -> str:
    """What an error says."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    document = response.json()
    assert document.keys() == {"error"}
    return str(document["error"])


# Answers


# Each has IMAGE and OTHER.
BODIES: list[dict[str, Any]] = [
    {"instances": [ENCODED, BLACK]},
    {"instances": [{"image_bytes": ENCODED}, {"image": BLACK}], "signature_name": "serving_default"},
    {"instances": [TENSOR, BLACK]},
    {"instances": [{"image": TENSOR}, {"image": ZEROS}], "signature_name": ""},
    {"inputs": [ENCODED, BLACK]},
    {"inputs": {"image_bytes": [ENCODED, BLACK]}},
    {"inputs": [TENSOR, ZEROS]},
    {"inputs": {"image": [TENSOR, ZEROS]}, "signature_name": "serving_default"},
]


@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/production", "/labels/stable"])
async def test_images_are_answered_as_by_our_own_route(api: API, place: str) -> None:
    """The same picture gives the same probabilities, to the last bit, however it comes."""
    expected = [await native(api), await native(api, OTHER)]
    for body in BODIES:
        answer = await api.client.post(f"{MODEL}{place}:predict", json=body)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json"), body
        assert answer.json() == {"predictions" if "instances" in body else "outputs": expected}, body


async def test_examples_are_answered_with_labels(api: API) -> None:
    """All labels with their scores, the highest first; an image is a feature, or a list of one, or the context."""
    scores = dict(zip(("horizontal", "vertical", "diagonal"), await native(api), strict=True))
    expected = [[label, scores[label]] for label in ("diagonal", "vertical", "horizontal")]
    bodies: list[dict[str, Any]] = [
        {"examples": [{"image_bytes": ENCODED}, {"image": TENSOR}]},
        {"examples": [{"image_bytes": [ENCODED]}, ENCODED], "signature_name": "serving_default", "context": {}},
        {"examples": [{}, {}], "context": {"image_bytes": ENCODED}},
    ]
    for body in bodies:
        answer = await api.client.post(f"{MODEL}:classify", json=body)
        assert answer.json() == {"results": [expected] * 2}, body


async def test_a_small_request_goes_past_asgi_to_the_same_answer(api: API) -> None:
    """In one piece, it never reaches the application, and is answered by the same bytes, errors too."""
    line = Line(api)
    for instance in (ENCODED, {"image_bytes": ENCODED}, {"pixels": ENCODED}, 7):
        body = json.dumps({"instances": [instance]}).encode()
        ordinary = await api.client.post(PATH, content=body)
        head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: {len(body)}\r\n\r\n"
        reply = await line.send(head.encode() + body)
        assert line.asked == []
        assert (reply.status, reply.document) == (ordinary.status_code, ordinary.json())


# What is refused


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("predict", {}, 'either "instances"'),
    ("predict", {"instances": [ENCODED], "inputs": [ENCODED]}, 'either "instances"'),
    ("predict", {"instances": []}, '"instances" has to be a list of at least one image'),
    ("predict", {"instances": ENCODED}, '"instances" has to be a list of at least one image'),
    ("predict", {"inputs": ENCODED}, '"inputs" has to be a list of at least one image'),
    ("predict", {"inputs": {}}, "inputs: an image comes as one input, 'image_bytes' or .* there are 0"),
    ("predict", {"inputs": [ENCODED, TENSOR]}, r"inputs\[1\] is no encoded image"),
    ("predict", {"inputs": [[1, 2], [3]]}, "inputs: the lists of a tensor have to be of equal lengths"),
    ("predict", {"instances": [{"image": TENSOR, "image_bytes": ENCODED}]}, r"instances\[0\]: .* there are 2"),
    ("predict", {"instances": [ENCODED, {"b64": 3}]}, r'instances\[1\]: "b64" has to be a string'),
    ("predict", {"instances": [{"b64": "###"}]}, r'instances\[0\]: "b64" is not base64'),
    ("predict", {"instances": [1.0, 2.0]}, r"the shape \[\]; shapes takes uint8 \[28, 28, 1\]"),
    ("predict", {"instances": ["cat"]}, r"instances\[0\]: a tensor is nested lists of numbers"),
    ("predict", {"instances": [ENCODED], "signature": "x"}, "Unknown field 'signature'. Allowed: signature_name"),
    ("predict", {"instances": [ENCODED], "signature_name": "x"}, 'The only signature is "serving_default"'),
    ("predict", {"instances": [ENCODED], "signature_name": None}, 'The only signature is "serving_default"'),
    (
        "predict",
        {"instances": [{"pixels": ENCODED}]},
        "shapes has no input 'pixels' for encoded images. Allowed: 'image_bytes' for encoded images, 'image' for",
    ),
    (
        "predict",
        {"inputs": {"image_bytes": [TENSOR]}},
        "no input 'image_bytes' for tensors. Allowed: .* 'image' for",
    ),
    ("classify", {}, '"examples" has to be a list of objects'),
    ("classify", {"examples": [TENSOR]}, '"examples" has to be a list of objects'),
    ("classify", {"examples": []}, '"examples" has to be a list of at least one'),
    ("classify", {"examples": [{}]}, r"examples\[0\]: an image comes as one input"),
    ("classify", {"examples": [{}], "context": []}, '"context" has to be an object'),
    ("classify", {"examples": [{"image_bytes": ENCODED}], "context": {"x": 1}}, "the examples have to be empty"),
    ("classify", {"instances": [ENCODED]}, "Unknown field 'instances'. Allowed: signature_name, context, examples"),
]


async def test_wrong_bodies_are_told_what_is_allowed(api: API) -> None:
    """By place and name; the status is that of our own API."""
    for verb, body, said in WRONG:
        response = await api.client.post(f"{MODEL}:{verb}", json=body)
        assert re.search(said, refused(response, 400)), (said, response.text)


async def test_more_images_than_are_allowed_are_refused(start: StartAPI) -> None:
    """Before they are decoded, or even counted among those that wait."""
    api = await start(max_files=3)
    bodies: list[dict[str, Any]] = [
        {"instances": [ENCODED] * 4},
        {"inputs": [[]] * 4},
        {"examples": [{"image_bytes": ENCODED}] * 4},
        {"examples": [{}] * 4, "context": {"image_bytes": ENCODED}},
    ]
    for body in bodies:
        verb = "classify" if "examples" in body else "predict"
        text = refused(await api.client.post(f"{MODEL}:{verb}", json=body), 413)
        assert text == "The request has 4 images; 3 are allowed in one."


async def test_what_is_not_there_is_told_with_what_is(api: API) -> None:
    """Models, versions and labels; alike wherever one names them."""
    for verb in (":predict", "/metadata", ""):

        async def ask(place: str, verb: str = verb) -> httpx.Response:
            address = f"/v1/models/{place}{verb}"
            if verb == ":predict":
                return await api.client.post(address, json={"instances": [ENCODED]})
            return await api.client.get(address)

        assert "shapes" in refused(await ask("roses"), 404)
        assert "1" in refused(await ask("shapes/versions/9"), 404).partition("It has: ")[2]
        assert "Allowed: production, stable" in refused(await ask("shapes/labels/canary"), 404)
        assert "Allowed: a version's number" in refused(await ask("shapes/versions/newest"), 400)
        assert "is not a valid model name" in refused(await ask("Shapes"), 400)


async def test_verbs_and_methods_that_there_are_not(api: API) -> None:
    """Are told as such, and not taken for a part of a model's name."""
    for method, path, status in (
        ("POST", f"{MODEL}:regress", 404),
        ("GET", f"{MODEL}:regress", 404),
        ("GET", f"{MODEL}:predict", 405),
        ("GET", f"{MODEL}/versions/1:classify", 405),
        ("POST", MODEL, 405),
        ("DELETE", f"{MODEL}/metadata", 405),
    ):
        response = await api.client.request(method, path, content=b"{}")
        refused(response, status)


async def test_a_bad_image_is_the_whole_requests_error(api: API) -> None:
    """The protocol knows no answers in part."""
    text = refused(await api.client.post(PATH, json={"instances": [ENCODED, {"b64": "bm8gaW1hZ2U="}]}), 415)
    assert text.startswith("The image at index 1 (of 2, the first is 0): Not an image")
    assert "JPEG" in text
    text = refused(await api.client.post(PATH, json={"instances": [ENCODED, [[1]]]}), 400)
    assert text.startswith("The image at index 1 (of 2, the first is 0): The tensor of an image has the shape")
    # A lone one needs no number.
    assert "index" not in refused(await api.client.post(PATH, json={"instances": [{"b64": "bm8gaW1hZ2U="}]}), 415)


# What the service says of models


async def states(api: API, place: str = MODEL) -> dict[str, str]:
    """States by version, in the order told."""
    answer = (await api.client.get(place)).json()
    return {entry["version"]: entry["state"] for entry in answer["model_version_status"]}


async def test_status_has_the_fields_of_both_protocols(api: API) -> None:
    """TensorFlow Serving's for all versions, the newest first; KServe's for the model."""
    answer = await api.client.get(MODEL)
    fine = {"error_code": "OK", "error_message": ""}
    first = {"version": "1", "state": "AVAILABLE", "status": fine}
    assert (answer.status_code, answer.json()) == (
        200,
        {"name": "shapes", "ready": True, "model_version_status": [{**first, "version": "2", "state": "START"}, first]},
    )
    for place in ("/versions/1", "/labels/production", "/labels/stable"):
        assert (await api.client.get(MODEL + place)).json() == {"model_version_status": [first]}
    assert (await api.client.post(f"{MODEL}/versions/2:predict", json={"instances": [ENCODED]})).status_code == 200
    assert await states(api) == {"2": "AVAILABLE", "1": "AVAILABLE"}


async def test_what_is_loading_is_said_so(start: StartAPI, registry: Registry) -> None:
    """A model of which nothing answers is not ready, with the status that KServe gives that."""
    engines = Engines()
    api = await start(load_runtime=engines)
    engines.load_go.clear()
    try:
        registry.promote("shapes", 2, by="test")
        add_version(registry, "others", promote=True)
        await eventually(lambda: [model.production for model in api.services.classifier.status().models] == [1, 2])
        assert await states(api) == {"2": "LOADING", "1": "AVAILABLE"}
        answer = await api.client.get("/v1/models/others")
        document = answer.json()
        assert (answer.status_code, document["ready"]) == (503, False)
        assert document["error"] == "Model others is still loading."
        assert document["model_version_status"][0]["state"] == "LOADING"
        assert int(answer.headers["retry-after"]) >= 1
    finally:
        engines.load_go.set()
    await eventually(
        lambda: all(model.serving == model.production for model in api.services.classifier.status().models)
    )
    assert await states(api) == {"2": "AVAILABLE", "1": "START"}
    assert (await api.client.get("/v1/models/others")).status_code == 200


async def test_a_model_without_production_is_not_ready_though_a_version_is_available(
    start: StartAPI, registry: Registry
) -> None:
    """The status is of those who name no version, whom nothing answers; who names one finds it."""
    add_version(registry, "later")
    api = await start()
    path = "/v1/models/later"
    instances = {"instances": [ENCODED]}
    assert (await api.client.post(f"{path}/versions/1:predict", json=instances)).status_code == 200
    answer = await api.client.get(path)
    assert (answer.status_code, answer.json()["ready"]) == (503, False)
    assert "production" in answer.json()["error"]
    assert await states(api, path) == await states(api, f"{path}/versions/1") == {"1": "AVAILABLE"}
    refused(await api.client.post(f"{path}:predict", json=instances), 404)
    # The Open Inference Protocol's metadata likewise.
    assert "by its number: 1." in refused(await api.client.get("/v2/models/later"), 404)
    assert "by its number: 1." in refused(await api.client.get("/v2/models/later/config"), 404)
    assert (await api.client.get("/v2/models/later/versions/1")).json()["versions"] == ["1"]


async def test_what_does_not_answer_is_said_with_the_reason(start: StartAPI, registry: Registry) -> None:
    """A refused version has ended; the one that goes on answering is there, and the model ready."""
    broken = add_version(registry, forge=lambda images, probabilities: (images, probabilities[:, ::-1]))
    add_version(registry, "unpromoted")
    registry.promote("shapes", broken, by="test")
    api = await start()
    answer = (await api.client.get(MODEL)).json()
    assert answer["ready"] is True
    assert await states(api) == {"3": "END", "2": "START", "1": "AVAILABLE"}
    told = answer["model_version_status"][0]["status"]
    assert told["error_code"] == "UNAVAILABLE"
    assert "golden" in told["error_message"]
    unpromoted = await api.client.get("/v1/models/unpromoted")
    assert (unpromoted.status_code, unpromoted.json()["ready"]) == (503, False)
    assert "promote one" in unpromoted.json()["error"]
    assert await states(api, "/v1/models/unpromoted") == {"1": "START"}
    spare = add_version(registry, "unpromoted", forge=lambda images, probabilities: (images, probabilities[:, ::-1]))
    path = f"/v1/models/unpromoted/versions/{spare}"
    assert "golden" in refused(await api.client.post(f"{path}:predict", json={"instances": [ENCODED]}), 422)
    [standing] = (await api.client.get(path)).json()["model_version_status"]
    assert (standing["state"], standing["status"]["error_code"]) == ("END", "UNAVAILABLE")
    assert "golden" in standing["status"]["error_message"]
    assert "has no version in production" in refused(await api.client.get("/v1/models/unpromoted/labels/stable"), 404)


async def test_numbers_that_are_not_finite_end_a_version(start: StartAPI) -> None:
    """It is doubted from then on, and the model not ready."""
    engines = Engines()
    api = await start(load_runtime=engines)
    engines.nan_for = 200
    response = await api.client.post(PATH, json={"instances": [ENCODED]})
    assert "not finite" in refused(response, 500)
    assert (await api.client.get(MODEL)).status_code == 503
    assert await states(api, f"{MODEL}/versions/1") == {"1": "END"}


async def test_a_service_that_stops_has_no_model_ready(api: API) -> None:
    """So that nobody sends it more."""
    api.services.lifecycle.stopping = True
    answer = await api.client.get(MODEL)
    assert (answer.status_code, answer.json()["error"]) == (503, "The service is shutting down.")


async def test_what_is_loaded_is_available_while_the_store_is_away(api: API, tmp_path: Path) -> None:
    """It goes on answering, and says so."""
    shutil.rmtree(tmp_path / "store" / "shapes")
    assert (await api.client.get(MODEL)).json()["ready"] is True
    assert await states(api) == {"1": "AVAILABLE"}


async def test_metadata_lists_both_inputs(api: API) -> None:
    """With their types and shapes, and the output; the signature's definition is nested twice."""

    def dims(*sizes: str) -> dict[str, Any]:
        return {"dim": [{"size": size, "name": ""} for size in sizes], "unknown_rank": False}

    signature = {
        "inputs": {
            "image": {"dtype": "DT_UINT8", "tensor_shape": dims("-1", "28", "28", "1"), "name": "image:0"},
            "image_bytes": {"dtype": "DT_STRING", "tensor_shape": dims("-1"), "name": "image_bytes:0"},
        },
        "outputs": {
            "probabilities": {"dtype": "DT_FLOAT", "tensor_shape": dims("-1", "3"), "name": "probabilities:0"},
        },
        "method_name": "tensorflow/serving/predict",
    }
    for place, version in (("", "1"), ("/labels/stable", "1"), ("/versions/2", "2")):
        answer = await api.client.get(f"{MODEL}{place}/metadata")
        assert answer.json() == {
            "model_spec": {"name": "shapes", "signature_name": "", "version": version},
            "metadata": {"signature_def": {"signature_def": {"serving_default": signature}}},
        }
