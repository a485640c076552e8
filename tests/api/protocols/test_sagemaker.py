"""Amazon SageMaker's contract."""

from __future__ import annotations

import asyncio
import base64
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.preprocessing import to_array
from app.store.registry import Registry
from tests.api.conftest import API, StartAPI
from tests.api.test_direct import Line
from tests.server import Server
from tests.serving.versions import add_version, gray, manifest

pytestmark = pytest.mark.anyio

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}
PATH = "/invocations"


def pixels() -> np.ndarray[Any, Any]:
    """The picture as the graph takes it."""
    return to_array(IMAGE, manifest().preprocessing)


def npy(array: np.ndarray[Any, Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def native(client: httpx.Client) -> list[float]:
    """Our own route's probabilities, by class."""
    answer = client.post("/api/v1/predict?top_k=0", content=IMAGE)
    top = sorted(answer.json()["predictions"][0]["top"], key=lambda entry: entry["class_index"])
    return [entry["probability"] for entry in top]


@pytest.mark.parametrize(
    ("kind", "body", "images"),
    [
        ("image/png", lambda: IMAGE, 1),
        ("image/jpeg; q=1", lambda: IMAGE, 1),
        ("application/x-image", lambda: IMAGE, 1),
        ("application/octet-stream", lambda: IMAGE, 1),
        ("application/x-npy", lambda: npy(pixels()), 1),
        ("application/x-npy", lambda: npy(np.asfortranarray(np.stack([pixels()] * 3)).astype(">i8")), 3),
    ],
)
def test_every_kind_of_body_is_answered_as_by_our_own_route(
    server: Server, kind: str, body: Callable[[], bytes], images: int
) -> None:
    """The same picture gives the same probabilities, to the last bit, with the labels beside them."""
    answer = server.client.post(PATH, content=body(), headers={"Content-Type": kind})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    assert answer.json() == {
        "predictions": [native(server.client)] * images,
        "labels": ["horizontal", "vertical", "diagonal"],
        "model": "shapes",
        "version": 1,
    }


def test_arrays_mean_the_same_in_either_order(server: Server) -> None:
    """NumPy writes some arrays by columns: the images of a batch are not mixed up."""
    batch = np.stack([np.full((28, 28, 1), level, np.uint8) for level in (0, 100, 255)])
    headers = {"Content-Type": "application/x-npy"}
    rows, columns = (
        server.client.post(PATH, content=npy(array), headers=headers).json()["predictions"]
        for array in (batch, np.asfortranarray(batch))
    )
    assert rows == columns
    assert rows[0] != rows[1] != rows[2]


def test_json_holds_encoded_images_and_tensors_together(server: Server) -> None:
    """Bare, under a key, or as numbers: one row an instance."""
    instances = [ENCODED, {"image": ENCODED}, pixels().tolist()]
    answer = server.client.post(PATH, json={"instances": instances})
    assert answer.json()["predictions"] == [native(server.client)] * 3


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("application/json;verbose=True", "application/json"),
        ("application/x-npy", "application/x-npy"),
        ("text/csv, application/json;q=0.5", "text/csv"),
        ("application/json;q=0.2, application/x-npy;q=0.9", "application/x-npy"),
        ("image/png, text/*", "text/csv"),
    ],
)
def test_the_answer_is_in_the_type_that_is_accepted(server: Server, accept: str | None, kind: str) -> None:
    """JSON, NumPy's format or CSV; all hold the same numbers."""
    headers = {"Content-Type": "application/x-image"} | ({} if accept is None else {"Accept": accept})
    answer = server.client.post(PATH, content=IMAGE, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    row = native(server.client)
    if kind == "application/x-npy":
        array = np.load(io.BytesIO(answer.content), allow_pickle=False)
        assert (array.dtype, array.tolist()) == (np.float32, [row])
    elif kind == "text/csv":
        assert [float(cell) for cell in answer.text.removesuffix("\n").split(",")] == row
    else:
        assert answer.json()["predictions"] == [row]


class Evil:
    """What unpickling would run."""

    ran = False

    def __reduce__(self) -> Any:
        return setattr, (Evil, "ran", True)


def header(text: str, version: int = 1) -> bytes:
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize(
    ("kind", "body", "status", "words"),
    [
        ("text/plain", b"x", 415, ["text/plain", "application/x-npy"]),
        ("application/json", b"{", 400, ["not JSON"]),
        ("application/json", b'{"instances": []}', 400, ["instances"]),
        ("application/json", b'{"inputs": [1]}', 400, ["inputs", "instances"]),
        ("application/json", b'{"instances": [{"b64": "AA==", "c": 1}]}', 400, ["instances[0]", "there are 2"]),
        ("application/json", b'{"instances": [[["x"]]]}', 400, ["instances[0]"]),
        ("application/json", b'{"instances": [[[1]]]}', 400, ["[1, 1]", "[28, 28, 1]"]),
        ("application/x-image", b"no picture", 415, []),
        ("application/x-image", b"", 400, ["empty"]),
        ("application/x-npy", b"no array", 400, ["numpy.save"]),
        ("application/x-npy", npy(np.zeros((28, 28), np.uint8)), 400, ["[28, 28]"]),
        ("application/x-npy", npy(np.array(["x"])), 400, ["no type of numbers"]),
        ("application/x-npy", pickle.dumps(Evil()), 400, ["numpy.save"]),
        ("application/x-npy", header("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n"), 400, ["'|O'"]),
        (
            "application/x-npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (99999999999, 9, 9, 9)}\n"),
            400,
            ["72899999999271", "0 follow"],
        ),
        ("application/x-npy", header("[" * 5000), 400, ["numpy.save"]),
        (
            "application/x-npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (0, 99999999999999999999, 3)}\n"),
            400,
            ["[0, 99999999999999999999, 3]"],
        ),
        (
            "application/x-npy",
            header("{'descr': '|u1', 'fortran_order': False, 'shape': (" + "1," * 90 + ")}\n") + b"x",
            400,
            ["[1, 1, 1, 1, 1, 1, 1, 1]"],
        ),
        ("application/x-npy", header("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 0)}"), 400, ["header"]),
        ("application/x-npy", npy(np.zeros((65, 28, 28, 1), np.uint8)), 413, ["65", "64"]),
    ],
)
def test_what_is_wrong_with_a_body_is_said(
    server: Server, kind: str, body: bytes, status: int, words: list[str]
) -> None:
    """With the status of our own route, and what is allowed; nothing is unpickled, and no header is believed."""
    answer = server.client.post(PATH, content=body, headers={"Content-Type": kind})
    text = answer.json()["error"]
    assert answer.status_code == status, text
    assert answer.json().keys() == {"error"}
    for word in words:
        assert word in text
    assert not Evil.ran


def test_an_answer_in_no_accepted_type_is_refused_before_the_body_is_read(server: Server) -> None:
    """With the types that there are."""
    answer = server.client.post(PATH, content=b"no picture", headers={"Accept": "application/json;q=0, image/png"})
    assert answer.status_code == 406
    for kind in ("application/json", "application/x-npy", "text/csv"):
        assert kind in answer.json()["error"]


async def test_a_small_request_goes_past_asgi_to_the_same_answer(api: API) -> None:
    """In one piece, it never reaches the application."""
    ordinary = await api.client.post(PATH, content=IMAGE)
    line = Line(api)
    head = f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:8000\r\nContent-Type: image/png\r\n"
    reply = await line.send(f"{head}Content-Length: {len(IMAGE)}\r\n\r\n".encode() + IMAGE)
    assert line.asked == []
    assert (reply.status, reply.document) == (200, ordinary.json())


async def test_ping_says_ready_when_it_is_and_no_longer_when_it_stops(api: API) -> None:
    """200 and 503, without a body."""
    answer = await api.client.get("/ping")
    assert (answer.status_code, answer.content) == (200, b"")
    api.services.lifecycle.stopping = True
    assert (await api.client.get("/ping")).status_code == 503


async def test_the_header_names_a_model_of_the_store(api: API) -> None:
    """Whoever names another model is not answered by this one."""
    for target, status in {"shapes": 200, "/shapes.tar.gz": 200, "none.tar.gz": 404, "../x": 400}.items():
        headers = {"Content-Type": "image/png", "X-Amzn-SageMaker-Target-Model": target}
        answer = await api.client.post(PATH, content=IMAGE, headers=headers)
        assert answer.status_code == status, answer.text


@pytest.fixture
async def endpoint(start: StartAPI, tmp_path: Path) -> API:
    """A multi-model endpoint with an empty store; models lie in `tmp_path / "models"`."""
    return await start(multi_model=tmp_path / "models", model_store=tmp_path / "own", workers=1)


def lay(tmp_path: Path, name: str, **changes: Any) -> Path:
    """Lay a model down as SageMaker unpacks an archive: one version's folder."""
    registry = Registry(tmp_path / f"built-{name}")
    add_version(registry, **changes)
    folder = tmp_path / "models" / name / "model"
    folder.parent.mkdir(parents=True)
    registry.folder("shapes", 1).rename(folder)
    return folder


async def test_models_are_loaded_asked_and_unloaded_by_sagemakers_names(endpoint: API, tmp_path: Path) -> None:
    """Whatever the names are; what is loaded twice is a conflict, and what is not loaded is not found."""
    client = endpoint.client
    assert (await client.get("/models")).json() == {"models": []}
    names = ["a1b2", "f" * 64, "Model/1.tar.gz"]
    for number, name in enumerate(names):
        body = {"model_name": name, "url": str(lay(tmp_path, str(number)))}
        answer = await client.post("/models", json=body)
        assert (answer.status_code, answer.json()) == (200, {"modelName": name, "modelUrl": body["url"]})
        again = await client.post("/models", json=body)
        assert again.status_code == 409
        assert "loaded already" in again.json()["error"]
    assert {entry["modelName"] for entry in (await client.get("/models")).json()["models"]} == set(names)
    for name in names[:2]:
        answer = await client.post(f"/models/{name}/invoke", content=IMAGE, headers={"Content-Type": "image/png"})
        assert answer.status_code == 200, answer.text
        assert (await client.get(f"/models/{name}")).json()["modelName"] == name
        assert (await client.delete(f"/models/{name}")).status_code == 200
        for gone in (client.get(f"/models/{name}"), client.delete(f"/models/{name}")):
            assert (await gone).status_code == 404
        answer = await client.post(f"/models/{name}/invoke", content=IMAGE, headers={"Content-Type": "image/png"})
        assert answer.status_code == 404
    metrics = (await client.get("/metrics")).text
    ready = [line for line in metrics.splitlines() if line.startswith("fovea_model_ready{")]
    assert len(ready) == 1  # nobody is warned of what was unloaded
    # As after its eviction: the same name again.
    answer = await client.post("/models", json={"model_name": names[0], "url": str(tmp_path / "models/0/model")})
    assert answer.status_code == 200, answer.text
    assert (await client.post(f"/models/{names[0]}/invoke", content=IMAGE)).status_code == 200


async def test_a_model_that_is_refused_is_not_there_afterwards(endpoint: API, tmp_path: Path) -> None:
    """Neither one whose files were changed, nor one whose golden examples come out otherwise."""
    changed = lay(tmp_path, "changed")
    (changed / "more.txt").write_text("not in its manifest")
    wrong = lay(tmp_path, "wrong", forge=lambda images, rows: (images, rows[::-1].copy()))
    for name, folder in (("changed", changed), ("wrong", wrong)):
        answer = await endpoint.client.post("/models", json={"model_name": name, "url": str(folder)})
        assert answer.status_code == 422, answer.text
        assert (await endpoint.client.get(f"/models/{name}")).status_code == 404
    assert (await endpoint.client.get("/models")).json() == {"models": []}


async def test_only_what_sagemaker_laid_down_is_loaded(endpoint: API, tmp_path: Path) -> None:
    """No path leads out of its folder, and what is wrong is said."""
    models = tmp_path / "models"
    (tmp_path / "link").mkdir()
    models.mkdir()
    (models / "out").symlink_to(tmp_path / "link")
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"model_name": "x"}, "url"),
        ({"model_name": "", "url": "x"}, "1 to 1024"),
        ({"model_name": "x", "url": "/etc"}, "below"),
        ({"model_name": "x", "url": f"{models}/../own"}, "below"),
        ({"model_name": "x", "url": f"{models}/out"}, "below"),
        ({"model_name": "x", "url": f"{models}/none"}, "no such folder"),
        ({"model_name": "x", "url": "\0"}, "url"),
        ({"model_name": "x", "url": f"{models}/{'x' * 5000}"}, "too long"),
        ({"model_name": "x", "url": str(models), "more": 1}, "unknown field 'more'"),
    ]
    for body, words in wrong:
        answer = await endpoint.client.post("/models", json=body)
        assert answer.status_code == 400
        assert words in answer.json()["error"]


async def test_without_memory_for_it_a_model_is_refused_so_that_sagemaker_unloads_others(
    endpoint: API, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """507, as the contract has it."""
    monkeypatch.setattr("app.api.protocols.sagemaker_models.free_memory", lambda: 100)
    folder = lay(tmp_path, "large")
    answer = await endpoint.client.post("/models", json={"model_name": "large", "url": str(folder)})
    assert answer.status_code == 507
    assert (await endpoint.client.get("/models")).json() == {"models": []}


async def test_an_ordinary_stores_models_are_there_to_stay(api: API, registry: Registry) -> None:
    """They are listed and asked by name; nothing is loaded or unloaded by HTTP."""
    assert (await api.client.get("/models")).json() == {"models": [{"modelName": "shapes"}]}
    assert (await api.client.post("/models/shapes/invoke", content=IMAGE)).status_code == 200
    for call in (
        api.client.post("/models", json={"model_name": "shapes", "url": "/opt"}),
        api.client.post("/models", json={"model_name": "other", "url": str(registry.folder("shapes", 1))}),
        api.client.delete("/models/shapes"),
    ):
        assert (await call).status_code == 409
    assert (await api.client.delete("/models/none")).status_code == 404
    assert registry.versions("shapes") == [1, 2]


async def test_two_loads_of_one_name_at_a_time_are_one(endpoint: API, tmp_path: Path) -> None:
    """The second is a conflict, whoever is sooner."""
    body = {"model_name": "twice", "url": str(lay(tmp_path, "twice"))}
    answers = await asyncio.gather(*(endpoint.client.post("/models", json=body) for _ in range(3)))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409]
