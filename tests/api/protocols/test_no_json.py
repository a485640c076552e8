"""Bodies that are not the JSON that a route takes: they are told as what they are, with what to send instead."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from tests.api.conftest import API
from tests.serving.versions import gray

pytestmark = pytest.mark.anyio

IMAGE = gray(200)
JSON = {"Content-Type": "application/json"}
ROUTES = {
    "/v1/models/shapes:predict": '"instances"',
    "/v1/models/shapes:classify": '"examples"',
    "/v1/models/shapes:explain": '"instances"',
    "/v2/models/shapes/infer": "Inference-Header-Content-Length: 0",
    "/vertex/predict": '"instances"',
    "/invocations": "application/x-image",
}


async def refused(api: API, path: str, body: bytes, **headers: str) -> str:
    """The words with which a body is refused."""
    answer = await api.client.post(path, content=body, headers={**JSON, **headers})
    assert (answer.status_code, set(answer.json())) == (400, {"error"}), answer.text
    text: str = answer.json()["error"]
    return text


@pytest.mark.parametrize("path", ROUTES)
async def test_what_is_no_json_is_named(api: API, path: str) -> None:
    """Bare images with how to send them; compressed bodies, by their header or by what they are; NaN; other bytes."""
    text = await refused(api, path, IMAGE)
    assert "it is a PNG image" in text
    assert ROUTES[path] in text
    packed = gzip.compress(b"{}")
    assert "Content-Encoding 'gzip' is not supported" in await refused(
        api, path, packed, **{"Content-Encoding": "gzip"}
    )
    assert "compressed, by gzip" in await refused(api, path, packed)
    assert "not UTF-8" in await refused(api, path, b"\xfe\xfe")
    cases: tuple[tuple[Any, str], ...] = (
        (b'{"instances": [[NaN]]}', "neither NaN nor Infinity"),
        (b'{"instances": [[1, -Infinity]]}', "neither NaN nor Infinity"),
        (b'{"instances": [[nil]]}', "The body is not JSON"),
    )
    for body, words in cases:
        assert words in await refused(api, path, body)
    event = await refused(api, path, b"{}", **{"Content-Type": "application/cloudevents+json"})
    assert "CloudEvents in structured mode" in event
