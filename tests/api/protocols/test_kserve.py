"""KServe's V1 protocol, as far as it is not TensorFlow Serving's too."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest

from app.errors import NotExplainable
from app.explanations import Findings, Question
from app.preprocessing import to_array
from app.store.registry import Registry
from tests.api.conftest import API, StartAPI
from tests.serving.versions import SCALED, SIZE, add_version, gray, manifest

pytestmark = pytest.mark.anyio

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}
TENSOR = np.full((SIZE, SIZE, 1), 200).tolist()
EXPLAIN = "/v1/models/shapes:explain"


def refused(response: httpx.Response, status: int) -> str:
    """What an error says."""
    assert response.status_code == status, response.text
    return str(response.json()["error"])


@pytest.fixture
def asked(api: API, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Question, bytes]]:
    """What the explainer was asked; it has an answer to everything."""
    asked: list[tuple[Question, bytes]] = []

    def ask(question: Question, image: bytes, *, deadline: float) -> tuple[Findings, bytes]:
        asked.append((question, image))
        return Findings(label="diagonal", probability=0.75, layer="conv"), b"picture %d" % len(asked)

    monkeypatch.setattr(api.services.explaining, "ask", ask)
    return asked


async def test_all_models_are_listed(api: API, registry: Registry) -> None:
    """By name."""
    assert (await api.client.get("/v1/models")).json() == {"models": ["shapes"]}
    add_version(registry, "others")
    # Whoever asks for it by name finds it at once.
    await api.client.post("/v1/models/others/versions/1:predict", json={"instances": [ENCODED]})
    assert (await api.client.get("/v1/models")).json() == {"models": ["others", "shapes"]}


@pytest.mark.parametrize("accept", ["application/json", "*/*", "", "application/json, text/plain"])
async def test_programs_are_told_that_the_service_is_alive(api: API, accept: str) -> None:
    """KServe's client asks the bare address, and takes anything."""
    answer = await api.client.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})
    assert answer.headers["vary"] == "Accept"


async def test_each_instance_is_explained(api: API, asked: list[tuple[Question, bytes]]) -> None:
    """For what production answers: label, probability, and the picture; images and their pixels alike."""
    body = {"instances": [ENCODED, {"image_bytes": ENCODED}, TENSOR, {"image": TENSOR}]}
    answer = await api.client.post(EXPLAIN, json=body)
    assert answer.status_code == 200
    assert answer.json() == {
        "explanations": [
            {
                "label": "diagonal",
                "probability": 0.75,
                "layer": "conv",
                "picture": {"b64": base64.b64encode(b"picture %d" % number).decode()},
            }
            for number in (1, 2, 3, 4)
        ]
    }
    pixels = to_array(IMAGE, manifest().preprocessing).tobytes()
    assert [(question.method, question.version, image) for question, image in asked] == [("gradcam", 1, pixels)] * 4


async def test_what_cannot_be_explained_is_told_why(
    api: API, registry: Registry, asked: list[tuple[Question, bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the explainer is asked, where that can be."""

    async def said(body: object, status: int, path: str = EXPLAIN) -> str:
        return refused(await api.client.post(path, json=body), status)

    assert '"instances" has to be a list' in await said({}, 400)
    assert "Allowed: instances" in await said({"instances": [ENCODED], "parameters": {}}, 400)
    assert "8 are allowed" in await said({"instances": [ENCODED] * 9}, 413)
    assert "no input 'x' for encoded images" in await said({"instances": [{"x": ENCODED}]}, 400)
    assert "JPEG" in await said({"instances": [{"b64": "bm8gaW1hZ2U="}]}, 415)
    many = await said({"instances": [{"b64": "bm8gaW1hZ2U="}, ENCODED]}, 415)
    assert many.startswith("The image at index 0 (of 2, ")
    assert "takes uint8 [28, 28, 1]" in await said({"instances": [[1, 2]]}, 400)
    assert "shapes" in await said({"instances": [ENCODED]}, 404, "/v1/models/roses:explain")
    add_version(registry, "scaled", promote=True, **SCALED)
    assert "send encoded images" in await said({"instances": [TENSOR]}, 400, "/v1/models/scaled:explain")
    assert asked == []

    def none(*_: object, **__: object) -> tuple[Findings, bytes]:
        raise NotExplainable("It has no SavedModel.")

    monkeypatch.setattr(api.services.explaining, "ask", none)
    assert await said({"instances": [ENCODED]}, 422) == "It has no SavedModel."
    monkeypatch.setattr("app.serving.explaining.find_spec", lambda _: None)
    assert "full image" in await said({"instances": [ENCODED]}, 501)


async def test_explanations_do_not_pile_up(start: StartAPI) -> None:
    """More than a few at a time are turned away, as on our own route."""
    api = await start()
    explaining = api.services.explaining
    with explaining.place(), explaining.place(), explaining.place(), explaining.place():
        response = await api.client.post(EXPLAIN, json={"instances": [ENCODED]})
        assert "explanations" in refused(response, 429)
        assert int(response.headers["retry-after"]) >= 1
