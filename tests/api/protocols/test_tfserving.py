"""TensorFlow Serving's REST API."""

from __future__ import annotations

import base64
import json

import pytest

from tests.api.conftest import API
from tests.api.test_direct import Line
from tests.serving.versions import gray

pytestmark = pytest.mark.anyio

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}
PATH = "/v1/models/shapes:predict"


async def _native(api: API) -> list[float]:
    """Our own route's probabilities, by class."""
    answer = await api.client.post("/api/v1/predict?top_k=0", content=IMAGE)
    top = sorted(answer.json()["predictions"][0]["top"], key=lambda entry: entry["class_index"])
    return [entry["probability"] for entry in top]


@pytest.mark.parametrize("instance", [ENCODED, {"image": ENCODED}], ids=["bare", "named"])
@pytest.mark.parametrize("place", ["", "/versions/1", "/labels/production"])
async def test_rows_of_encoded_images_are_answered_as_by_our_own_route(api: API, instance: object, place: str) -> None:
    """The same picture gives the same probabilities, to the last bit."""
    answer = await api.client.post(f"/v1/models/shapes{place}:predict", json={"instances": [instance, instance]})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"predictions": [await _native(api)] * 2}


async def test_a_small_request_goes_past_asgi_to_the_same_answer(api: API) -> None:
    """In one piece, it never reaches the application, and is answered by the same bytes."""
    body = json.dumps({"instances": [ENCODED]}).encode()
    ordinary = await api.client.post(PATH, content=body)
    line = Line(api)
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Length: {len(body)}\r\n\r\n"
    reply = await line.send(head.encode() + body)
    assert line.asked == []
    assert (reply.status, reply.document) == (200, ordinary.json())
