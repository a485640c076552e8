"""`POST …/explain`, `GET …/filters` and `GET …/layers`, at a real server with the model that comes along."""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from app.store.registry import Registry
from tests.api.conftest import API, Keyring, Problem, StartAPI
from tests.server import Server, running, wait_for
from tests.serving.test_explaining import holder
from tests.serving.versions import add_version, gray

MODEL = "/api/v1/models/cifar10"
SHIPPED = Path(__file__).parents[2] / "model_store" / "cifar10"


@pytest.fixture(scope="module")
def version() -> int:
    """The newest that is shipped."""
    return max(int(folder.name) for folder in SHIPPED.iterdir() if folder.name.isdecimal())


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory, version: int) -> Iterator[Server]:
    """A server without TensorFlow, with the shipped model, and one that is none: `shapes`."""
    folder = tmp_path_factory.mktemp("explained")
    # Nothing answers with it here, for want of an engine; it can be explained all the same.
    shutil.copytree(SHIPPED / str(version), folder / "store" / "cifar10" / str(version))
    registry = Registry(folder / "store")
    registry.promote("cifar10", version, by="test")
    add_version(registry, promote=True)
    # TensorFlow is slow to start where others are at work.
    with running(folder, request_timeout=120) as server:
        yield server


@pytest.fixture(scope="module")
def cat(version: int) -> bytes:
    return next((SHIPPED / str(version) / "golden").glob("03.*")).read_bytes()


def picture(response: httpx.Response) -> Image.Image:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "image/png"
    image = Image.open(io.BytesIO(response.content))
    image.load()
    return image


def test_an_image_is_answered_with_its_heat(explained: Server, cat: bytes, version: int) -> None:
    """Grad-CAM for what is answered, or for the label that is asked for; the headers say what it shows."""
    response = explained.client.post(f"{MODEL}/explain", content=cat)
    assert picture(response).size == (320, 320)
    headers = response.headers
    assert (headers["fovea-model"], headers["fovea-version"]) == ("cifar10", str(version))
    assert headers["fovea-label"] == "cat"
    assert 0.3 < float(headers["fovea-probability"]) <= 1
    other = explained.client.post(
        f"{MODEL}/explain?version={version}&label=dog&method=gradcam", files={"file": ("cat.jpg", cat, "image/jpeg")}
    )
    assert picture(other).tobytes() != picture(response).tobytes()
    assert other.headers["fovea-label"] == "dog"
    assert float(other.headers["fovea-probability"]) < float(headers["fovea-probability"])


def test_layers_filters_and_maps_are_shown(explained: Server, cat: bytes, version: int, problem: Problem) -> None:
    """Any layer of the list can be looked at; another is refused with the list."""
    found = explained.client.get(f"{MODEL}/versions/{version}/layers").json()
    names = [layer["name"] for layer in found["layers"]]
    assert found["default"] in names
    first = found["layers"][0]
    assert (first["kind"], first["height"], first["width"]) == ("convolution", 32, 32)
    filters = explained.client.get(f"{MODEL}/versions/{version}/filters")
    assert filters.headers["fovea-layer"] == names[0]
    assert "sandbox" in filters.headers["content-security-policy"]
    assert picture(filters).width > 400
    maps = explained.client.post(f"{MODEL}/explain?method=activations&layer={names[-1]}", content=cat)
    assert maps.headers["fovea-layer"] == names[-1]
    assert picture(maps).width > 400
    document = problem(explained.client.post(f"{MODEL}/explain?layer=nose", content=cat), 404, "layer_not_found")
    assert names[0] in document["detail"]


def test_kserve_has_the_same_explanations(explained: Server, cat: bytes) -> None:
    """By its V1 protocol: for each instance what our own route answers, as JSON."""
    own = explained.client.post(f"{MODEL}/explain", content=cat)
    encoded = {"b64": base64.b64encode(cat).decode()}
    answer = explained.client.post("/v1/models/cifar10:explain", content=json.dumps({"instances": [encoded] * 2}))
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["explanations"]
    assert first == second
    assert base64.b64decode(first["picture"]["b64"]) == own.content
    assert (first["label"], first["layer"]) == (own.headers["fovea-label"], own.headers["fovea-layer"])
    assert f"{first['probability']:.4f}" == own.headers["fovea-probability"]


def test_production_is_a_version_for_layers_and_filters_too(explained: Server, version: int, problem: Problem) -> None:
    """As for images: the one that answers, or would; its number is in the answer, which is not kept for long."""
    versions = f"{MODEL}/versions"
    assert (
        explained.client.get(f"{versions}/production/layers").json()
        == explained.client.get(f"{versions}/{version}/layers").json()
    )
    filters = explained.client.get(f"{versions}/production/filters")
    picture(filters)
    assert filters.headers["fovea-version"] == str(version)
    assert filters.headers["cache-control"] == "no-store"
    for wrong in ("newest", "0", "1.5", "9" * 10):
        for what in ("layers", "filters"):
            refused = problem(explained.client.get(f"{versions}/{wrong}/{what}"), 400, "invalid_request")
            assert "a version's number, or 'production'" in refused["detail"]
    assert (
        "There is no"
        in problem(explained.client.get("/api/v1/models/roses/versions/production/layers"), 404, "model_not_found")[
            "detail"
        ]
    )


def test_tensorflow_is_in_another_process(explained: Server, cat: bytes) -> None:
    """The serving process has none of it in its memory, after an explanation too."""
    picture(explained.client.post(f"{MODEL}/explain", content=cat))
    assert "tensorflow" not in Path(f"/proc/{explained.process.pid}/maps").read_text()


def test_wrong_requests_are_told_what_is_allowed(explained: Server, cat: bytes, problem: Problem) -> None:
    """Each is a client's error, with the way out."""

    def refused(query: str, status: int, code: str, *, model: str = "cifar10", body: bytes = cat) -> str:
        response = explained.client.post(f"/api/v1/models/{model}/explain{query}", content=body)
        return str(problem(response, status, code)["detail"])

    assert "airplane, automobile" in refused("?label=lion", 400, "invalid_request")
    assert "'gradcam' or 'activations'" in refused("?method=lime", 422, "validation_failed")
    assert "gradcam only" in refused("?method=activations&label=cat", 400, "invalid_request")
    assert "It has: " in refused("?version=77", 404, "version_not_found")
    assert "'production'" in refused("?version=newest", 400, "invalid_request")
    assert "cifar10" in refused("", 404, "model_not_found", model="roses")
    assert "Supported: JPEG" in refused("", 415, "unsupported_image_format", body=b"text")
    assert "no image" in refused("", 400, "invalid_request", body=b"")
    # The fake's versions have no graph.
    reason = refused("", 422, "not_explainable", model="shapes", body=gray(0))
    assert reason == "Version 1 of shapes cannot be explained: it has no SavedModel."
    two = explained.client.post(f"{MODEL}/explain", files=[("a", ("a.jpg", cat)), ("b", ("b.jpg", cat))])
    assert "One image" in problem(two, 400, "invalid_request")["detail"]


@pytest.mark.anyio
async def test_more_than_a_few_at_a_time_are_turned_away(api: API, problem: Problem) -> None:
    """Explanations are slow, and must not pile up; predictions go on meanwhile."""
    explaining = api.services.explaining
    with explaining.place(), explaining.place(), explaining.place(), explaining.place():
        response = await api.client.post("/api/v1/models/shapes/explain", content=gray(0))
        assert int(response.headers["retry-after"]) >= 1
        problem(response, 429, "overloaded")
        assert (await api.client.post("/api/v1/predict", content=gray(0))).status_code == 200


@pytest.mark.anyio
async def test_without_tensorflow_there_are_no_explanations(
    api: API, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The serving image says which image has them, and that is no fault of the service."""
    monkeypatch.setattr("app.serving.explaining.find_spec", lambda _: None)
    for response in (
        await api.client.post("/api/v1/models/shapes/explain", content=gray(0)),
        await api.client.get("/api/v1/models/shapes/versions/1/filters"),
    ):
        assert "full image" in problem(response, 501, "explain_unavailable")["detail"]


@pytest.mark.anyio
async def test_explaining_needs_the_scope_of_predicting(start: StartAPI, keyring: Keyring, problem: Problem) -> None:
    """A key for training may look at filters and layers, which show no images."""
    api = await start(api_keys=keyring.path)
    explain = "/api/v1/models/shapes/explain"
    problem(await api.client.post(explain, content=b"", headers=keyring.headers("train")), 403, "forbidden")
    problem(await api.client.post(explain, content=b"", headers=keyring.headers("predict")), 400, "invalid_request")


def test_the_process_ends_with_the_server(explained: Server, cat: bytes) -> None:
    """SIGTERM to the server is enough."""
    picture(explained.client.post(f"{MODEL}/explain", content=cat))
    pid = holder(explained.folder / "workspace")
    assert Path(f"/proc/{pid}").exists()
    explained.stop()
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), what="its end")
