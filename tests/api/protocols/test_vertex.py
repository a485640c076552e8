"""Vertex AI's contract."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from app.errors import ConfigurationError
from app.settings import Settings
from tests.api.conftest import API, StartAPI
from tests.server import Server
from tests.serving.versions import gray

pytestmark = pytest.mark.anyio

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}
PATH = "/vertex/predict"


def test_a_prediction_has_the_form_of_vertex_ais_own_image_classification(server: Server) -> None:
    """Of each instance the classes, the most probable first; the same to the last bit as by our own route."""
    top = server.client.post("/api/v1/predict?top_k=0", content=IMAGE).json()["predictions"][0]["top"]
    prediction = {
        "ids": [str(entry["class_index"]) for entry in top],
        "displayNames": [entry["label"] for entry in top],
        "confidences": [entry["probability"] for entry in top],
    }
    answer = server.client.post(PATH, json={"instances": [ENCODED, {"image_bytes": ENCODED}]})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {"predictions": [prediction] * 2}


def test_parameters_bound_the_classes(server: Server) -> None:
    """Their number and their confidence; numbers may come as Vertex AI's protocol buffers write them."""

    def confidences(**parameters: Any) -> list[float]:
        answer = server.client.post(PATH, json={"instances": [ENCODED], "parameters": parameters})
        found: list[float] = answer.json()["predictions"][0]["confidences"]
        return found

    every = confidences()
    assert confidences(maxPredictions=2) == confidences(maxPredictions=2.0) == every[:2]
    assert confidences(confidenceThreshold=every[1]) == every[:2]
    assert confidences(confidenceThreshold=1) == []
    assert confidences(confidenceThreshold=None, maxPredictions=None) == every


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([1], "JSON object"),
        ({"instances": []}, "at least one image"),
        ({"instances": [ENCODED], "signature_name": "x"}, "Allowed: instances, parameters"),
        ({"instances": [ENCODED], "parameters": []}, "has to be an object"),
        ({"instances": [ENCODED], "parameters": {"topK": 1}}, "Allowed: confidenceThreshold, maxPredictions"),
        ({"instances": [ENCODED], "parameters": {"maxPredictions": 1.5}}, "whole number"),
        ({"instances": [ENCODED], "parameters": {"maxPredictions": True}}, "whole number"),
        ({"instances": [ENCODED], "parameters": {"maxPredictions": 0}}, "whole number"),
        ({"instances": [ENCODED], "parameters": {"confidenceThreshold": "x"}}, "from 0 to 1"),
        ({"instances": [{"a": ENCODED, "b": 1}]}, "there are 2"),
        ({"instances": [{"a": ENCODED}]}, "'image_bytes' for encoded images"),
        ({"instances": [{"b64": "?"}]}, "instances[0]"),
    ],
)
def test_what_is_wrong_is_said(server: Server, body: Any, words: str) -> None:
    """400, and what is allowed."""
    answer = server.client.post(PATH, json=body)
    assert answer.status_code == 400
    assert words in answer.json()["error"]


async def test_routes_are_where_the_variables_say(start: StartAPI) -> None:
    """Beside those that are always there; in the document too; health says when the service stops."""
    path = "/v1/endpoints/1/deployedModels/2"
    api = await start(predict_route=path, health_route=path)
    for route in (path, PATH):
        answer = await api.client.post(route, json={"instances": [ENCODED]})
        assert (answer.status_code, answer.json().keys()) == (200, {"predictions"})
    assert (await api.client.get(path)).status_code == 200
    assert api.app.openapi()["paths"][path].keys() == {"get", "post"}
    api.services.lifecycle.stopping = True
    assert (await api.client.get(path)).status_code == 503


@pytest.mark.parametrize(
    ("predict", "health", "form"),
    [
        ("/v1/models/shapes:predict", "/ping", list),
        ("/invocations", "/health/live", list),
        ("/", "/", dict),
    ],
)
async def test_a_route_that_is_there_already_is_used(start: StartAPI, predict: str, health: str, form: type) -> None:
    """Clients of that protocol are answered as before; the bare address is only taken if it is asked for."""
    api = await start(predict_route=predict, health_route=health)
    answer = await api.client.post(predict, json={"instances": [ENCODED]})
    assert answer.status_code == 200
    [prediction] = answer.json()["predictions"]
    assert type(prediction) is form
    assert (await api.client.get(health)).status_code == 200


@pytest.mark.parametrize("route", ["predict", "/a b", "/a?b", "//", "/{x}", "/api/v1/predict", "/health/ready", ""])
def test_a_route_that_cannot_be_is_said_before_the_start(route: str) -> None:
    """With the variable that it may come from."""
    settings = Settings(predict_route=route)
    with pytest.raises(ConfigurationError, match="AIP_PREDICT_ROUTE"):
        settings.check()


@pytest.mark.parametrize(("parameters", "status"), [(None, 200), ({}, 200), ({"maxPredictions": 1}, 400)])
async def test_tensorflow_servings_route_takes_parameters_that_say_nothing(
    api: API, parameters: object, status: int
) -> None:
    """As Vertex AI may send them there; those that say something are refused, and not quietly left out."""
    body = {"instances": [ENCODED], "parameters": parameters}
    assert (await api.client.post("/v1/models/shapes:predict", json=body)).status_code == status


async def test_strangers_only_predict_where_that_is_all_they_may(start: StartAPI) -> None:
    """What trains, promotes or loads is refused, as for a key without the scope; what is public stays so."""
    api = await start(anonymous="predict")
    assert (await api.client.post(PATH, json={"instances": [ENCODED]})).status_code == 200
    assert (await api.client.post("/api/v1/predict", content=IMAGE)).status_code == 200
    assert (await api.client.get("/ping")).status_code == 200
    for call in (
        api.client.post("/api/v1/models/shapes/promote", json={"version": 2}),
        api.client.post("/api/v1/training-jobs", json={"dataset": "digits"}),
        api.client.post("/models", json={"model_name": "x", "url": "/"}),
        api.client.delete("/models/shapes"),
    ):
        answer = await call
        assert answer.status_code == 403
        assert "FOVEA_ANONYMOUS" in answer.text


def test_routes_come_from_vertex_ais_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours win."""
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/a")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/b")
    monkeypatch.setenv("FOVEA_HEALTH_ROUTE", "/c")
    settings = Settings()
    assert (settings.predict_route, settings.health_route) == ("/a", "/c")
