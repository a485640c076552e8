"""`POST /api/v1/predict`."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.predict import render_answer
from app.errors import InferenceFailed
from app.preprocessing import Float32Array
from app.serving.classifier import Answer
from app.serving.runtimes.base import Batch
from app.serving.runtimes.fake import FakeRuntime
from app.store.manifest import Manifest
from app.store.registry import Registry
from tests.api.conftest import API, Problem, StartAPI
from tests.serving.versions import LABELS, UNKNOWN, add_version, gray

PREDICT = "/api/v1/predict"
BLACK, WHITE = gray(0), gray(255)
PNG = {"Content-Type": "image/png"}

Files = list[tuple[str, tuple[str, bytes, str]]]


def files(**named: bytes) -> Files:
    return [("file", (name.replace("_", "."), data, "image/png")) for name, data in named.items()]


async def test_raw_image_gets_model_version_and_labels_best_first(api: API) -> None:
    """A posted image is answered with the model, its version, the request's id and labels, the best first."""
    response = await api.client.post(PREDICT, content=BLACK, headers=PNG)
    assert response.status_code == 200
    answer = response.json()
    assert list(answer) == ["model", "version", "id", "predictions"]
    assert (answer["model"], answer["version"]) == ("shapes", 1)
    assert answer["id"] == response.headers["x-request-id"]
    [prediction] = answer["predictions"]
    assert list(prediction) == ["name", "label", "probability", "top"]
    assert (prediction["name"], prediction["label"]) == ("image", "horizontal")
    assert prediction["top"][0] == {
        "label": "horizontal",
        "class_index": 0,
        "probability": prediction["probability"],
    }
    probabilities = [entry["probability"] for entry in prediction["top"]]
    assert probabilities == sorted(probabilities, reverse=True)


async def test_a_version_with_a_threshold_says_what_it_does_not_know(api: API, registry: Registry) -> None:
    """Where the manifest has a threshold, each prediction says whether its highest probability is below it."""
    version = add_version(registry, **UNKNOWN)
    sent = files(black_png=BLACK, gray_png=gray(128), white_png=WHITE)
    response = await api.client.post(f"{PREDICT}?version={version}&top_k=1", files=sent)
    black, between, white = response.json()["predictions"]
    assert list(black) == ["name", "label", "probability", "unknown", "top"]
    assert (black["unknown"], between["unknown"], white["unknown"]) == (False, True, False)
    assert between["probability"] < 0.6 < black["probability"]
    assert between["label"] == "vertical"


@pytest.mark.parametrize(
    "content_type", ["image/png", "image/jpeg", "application/octet-stream", "application/x-www-form-urlencoded", None]
)
async def test_what_the_bytes_are_counts_not_what_the_header_says(api: API, content_type: str | None) -> None:
    """An image is accepted under any image type, as octets, as what curl says by default, and with no type at all."""
    headers = {"Content-Type": content_type} if content_type else {}
    response = await api.client.post(PREDICT, content=WHITE, headers=headers)
    assert response.json()["predictions"][0]["label"] == "diagonal"


async def test_all_classes_sum_to_one(api: API) -> None:
    """`top_k=0` lists every class, and the probabilities sum to 1."""
    response = await api.client.post(f"{PREDICT}?top_k=0", content=gray(100))
    top = response.json()["predictions"][0]["top"]
    assert {entry["label"] for entry in top} == set(LABELS)
    assert sorted(entry["class_index"] for entry in top) == [0, 1, 2]
    assert sum(entry["probability"] for entry in top) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("top_k", "listed"), [("1", 1), ("2", 2), ("3", 3), ("999", 3)])
async def test_top_k_limits_what_is_listed(api: API, top_k: str, listed: int) -> None:
    """`top_k` lists that many classes, or all there are."""
    response = await api.client.post(f"{PREDICT}?top_k={top_k}", content=BLACK)
    assert len(response.json()["predictions"][0]["top"]) == listed


@pytest.mark.parametrize("classes", [3, 64, 65, 1000])
@pytest.mark.parametrize("top_k", [0, 1, 5, 2000])
def test_the_most_probable_classes_are_listed_and_equals_in_their_order(classes: int, top_k: int) -> None:
    """However many classes there are, and whether the last that is listed has equals that are not."""
    for seed in range(20):
        values = np.random.default_rng(seed).integers(0, 2 + 5 * seed, classes).astype(np.float32)
        answer = Answer("shapes", 1, [str(index) for index in range(classes)], [values])
        document = json.loads(render_answer(answer, [None], top_k, None))
        listed = [entry["class_index"] for entry in document["predictions"][0]["top"]]
        assert listed == sorted(range(classes), key=lambda index: -values[index])[: top_k or None]


async def test_many_files_are_answered_in_the_order_sent(api: API) -> None:
    """Any number of files, under any field names, is answered in the order sent and by their names."""
    sent: Files = [
        ("a", ("white.png", WHITE, "image/png")),
        ("b", ("black.png", BLACK, "image/png")),
        ("a", ("middle.png", gray(128), "application/octet-stream")),
    ]
    response = await api.client.post(PREDICT, files=sent)
    found = [(entry["name"], entry["label"]) for entry in response.json()["predictions"]]
    assert found == [("white.png", "diagonal"), ("black.png", "horizontal"), ("middle.png", "vertical")]


async def test_bad_image_among_good_ones_fails_alone(api: API) -> None:
    """In a request of several images a bad one gets its error in its place, and the others their answers."""
    response = await api.client.post(
        PREDICT, files=files(a_png=BLACK, b_txt=b"no image", c_png=WHITE[:60], d_png=WHITE)
    )
    assert response.status_code == 200
    first, second, third, fourth = response.json()["predictions"]
    assert (first["label"], fourth["label"]) == ("horizontal", "diagonal")
    assert set(second) == set(third) == {"name", "error"}
    assert second["name"] == "b.txt"
    assert second["error"]["code"] == "unsupported_image_format"
    assert third["error"]["code"] == "invalid_image"
    assert third["error"]["detail"]


@pytest.mark.parametrize(
    ("image", "status", "code"),
    [(b"no image at all", 415, "unsupported_image_format"), (WHITE[:60], 422, "invalid_image")],
)
@pytest.mark.parametrize("multipart", [False, True])
async def test_single_bad_image_is_a_problem(
    api: API, problem: Problem, image: bytes, status: int, code: str, multipart: bool
) -> None:
    """A single bad image, raw or as a part, is a problem document with a status of 4xx."""
    if multipart:
        response = await api.client.post(PREDICT, files=files(bad=image))
    else:
        response = await api.client.post(PREDICT, content=image)
    problem(response, status, code)


async def test_image_with_too_many_pixels_is_refused(start: StartAPI, problem: Problem) -> None:
    """An image over the pixel cap is refused with 413."""
    api = await start(max_pixels=100)
    problem(await api.client.post(PREDICT, content=BLACK), 413, "image_too_large")


async def test_version_can_be_chosen(api: API) -> None:
    """`version` names one by number, or the production version by word."""
    versions = [
        (await api.client.post(f"{PREDICT}?version={version}", content=BLACK)).json()["version"]
        for version in ("1", "2", "production")
    ]
    assert versions == [1, 2, 1]


@pytest.mark.parametrize(
    ("query", "status", "code", "said"),
    [
        ("model=other", 404, "model_not_found", "shapes"),
        ("version=9", 404, "version_not_found", "1, 2"),
        ("version=0", 400, "invalid_request", "'production'"),
        ("version=latest", 400, "invalid_request", "'production'"),
        ("version=1.0", 400, "invalid_request", "a version's number"),
        ("version=99999999999999999999", 400, "invalid_request", "a version's number"),
        (
            "top_k=-1",
            400,
            "invalid_request",
            "top_k='-1' is not allowed. Allowed: a whole number from 0 up; 0 lists all classes.",
        ),
        ("top_k=many", 400, "invalid_request", "whole number"),
        ("top_k=٣", 400, "invalid_request", "whole number"),
        ("top_k=", 400, "invalid_request", "whole number"),
        ("topk=1", 400, "invalid_request", "model, version, top_k"),
        ("top_k=1&top_k=2", 400, "invalid_request", "more than once"),
        ("model=../etc", 400, "invalid_name", "a-z"),
        ("model=%00", 400, "invalid_name", "a-z"),
    ],
)
async def test_wrong_queries_are_told_what_is_allowed(
    api: API, problem: Problem, query: str, status: int, code: str, said: str
) -> None:
    """Every wrong parameter or value is refused with what is allowed, and none is quietly ignored."""
    response = await api.client.post(f"{PREDICT}?{query}", content=BLACK)
    assert said in problem(response, status, code)["detail"]


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b"", "image/png", 400, "invalid_request"),
        (b"{}", "application/json", 415, "unsupported_media_type"),
        (b"hello", "text/plain", 415, "unsupported_media_type"),
        (b"x", "multipart/form-data", 400, "invalid_request"),
        (b"x", "multipart/form-data; boundary=", 400, "invalid_request"),
        (b"x", "multipart/form-data; boundary=abc", 400, "invalid_request"),
        (b"x", "multipart/form-data; boundary=" + "b" * 500, 400, "invalid_request"),
        (b"--b--\r\n", "multipart/form-data; boundary=b", 400, "invalid_request"),
        (
            b'--b\r\nContent-Disposition: form-data; name="f"; filename="a"\r\n\r\nxx',
            "multipart/form-data; boundary=b",
            400,
            "invalid_request",
        ),
        (
            b'--b\r\nContent-Disposition: form-data; name="top_k"\r\n\r\n3\r\n--b--\r\n',
            "multipart/form-data; boundary=b",
            400,
            "invalid_request",
        ),
        (
            b"--b\r\nX-Long: " + b"y" * 10_000 + b"\r\n\r\nz\r\n--b--\r\n",
            "multipart/form-data; boundary=b",
            400,
            "invalid_request",
        ),
    ],
    ids=str,
)
async def test_bodies_without_an_image_are_refused(
    api: API, problem: Problem, content: bytes, content_type: str, status: int, code: str
) -> None:
    """Empty, cut, malformed and foreign bodies are refused with a reason."""
    response = await api.client.post(PREDICT, content=content, headers={"Content-Type": content_type})
    problem(response, status, code)


async def test_too_many_files_are_refused(start: StartAPI, problem: Problem) -> None:
    """More files than allowed are refused with the number that is."""
    api = await start(max_files=2)
    response = await api.client.post(PREDICT, files=files(a=BLACK, b=BLACK, c=BLACK))
    assert "2" in problem(response, 413, "payload_too_large")["detail"]


async def test_body_over_the_cap_is_refused(start: StartAPI, problem: Problem) -> None:
    """A body over the cap is refused, whether it says its length or not."""
    api = await start(max_body_bytes=1024)

    async def pieces() -> Any:
        for _ in range(3):
            yield b"x" * 500

    said = await api.client.post(PREDICT, content=b"x" * 1025)
    unsaid = await api.client.post(PREDICT, content=pieces())
    for response in (said, unsaid):
        assert "1024" in problem(response, 413, "payload_too_large")["detail"]
    at_the_cap = await api.client.post(PREDICT, content=BLACK + b"\0" * (1024 - len(BLACK)))
    assert at_the_cap.status_code == 200


async def test_answered_requests_hold_no_memory(api: API) -> None:
    """Whatever came of a request, its body is given back to the budget that all share."""
    for content in (BLACK, b"junk"):
        await api.client.post(PREDICT, content=content)
        await api.client.post(PREDICT, files=files(a=content))
    assert api.services.bodies.used == 0


async def test_names_of_files_are_echoed_harmlessly(api: API) -> None:
    """A file's name comes back without control characters and cut to a bearable length."""
    body = (
        b'--b\r\nContent-Disposition: form-data; name="f"; filename="evil\x07\xff\xe2\x80\xae.png"\r\n\r\n'
        + BLACK
        + b'\r\n--b\r\nContent-Disposition: form-data; name="f"; filename="'
        + b"n" * 3000
        + b'"\r\n\r\n'
        + BLACK
        + b'\r\n--b\r\nContent-Disposition: form-data; name="f"; filename=""\r\n\r\n'
        + BLACK
        + b"\r\n--b--\r\n"
    )
    response = await api.client.post(PREDICT, content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
    odd, long, none = [entry["name"] for entry in response.json()["predictions"]]
    assert odd.startswith("evil")
    assert odd.isprintable()
    assert len(long) == 255
    assert none == "image-3"
    assert "\x07" not in response.text


async def test_several_models_need_a_name(start: StartAPI, registry: Registry, problem: Problem) -> None:
    """With several models and no default, a request that names none is told which there are."""
    add_version(registry, "digits", promote=True)
    api = await start()
    detail = problem(await api.client.post(PREDICT, content=BLACK), 400, "invalid_request")["detail"]
    assert "digits" in detail
    assert "shapes" in detail
    named = await api.client.post(f"{PREDICT}?model=digits", content=BLACK)
    assert named.json()["model"] == "digits"


class Gated(FakeRuntime):
    """Answers when it is let."""

    def __init__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> None:
        super().__init__(folder, manifest, lanes=lanes, threads=threads)
        self.open = threading.Event()
        self.open.set()  # the golden examples pass

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        time.sleep(0.002)  # what takes less is answered on the event loop, which must not be held up
        self.open.wait(10)
        return super().predict(batch)


class Gate:
    """Loads gated runtimes; `close` holds all requests from then on."""

    def __init__(self) -> None:
        self.runtimes: list[Gated] = []

    def __call__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Gated:
        self.runtimes.append(Gated(folder, manifest, lanes=lanes, threads=threads))
        return self.runtimes[-1]

    def close(self) -> None:
        for runtime in self.runtimes:
            runtime.open.clear()

    def open(self) -> None:
        for runtime in self.runtimes:
            runtime.open.set()


async def test_full_queue_answers_at_once_when_to_come_back(start: StartAPI, problem: Problem) -> None:
    """When the queue is full a request gets 429 with Retry-After, and the ones before it their answers."""
    gate = Gate()
    api = await start(load_runtime=gate, max_queue=2)
    gate.close()
    waiting = [asyncio.create_task(api.client.post(PREDICT, content=BLACK)) for _ in range(2)]
    await asyncio.sleep(0.1)
    refused = await api.client.post(PREDICT, content=BLACK)
    gate.open()
    problem(refused, 429, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert [(await task).status_code for task in waiting] == [200, 200]


async def test_client_that_goes_away_frees_its_place(start: StartAPI) -> None:
    """A client that closes the connection gives up its place in the queue, long before the engine is free."""
    gate = Gate()
    api = await start(load_runtime=gate, max_queue=2)
    gate.close()
    sent: list[dict[str, Any]] = []
    gone = asyncio.Event()
    messages = [{"type": "http.request", "body": BLACK, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": PREDICT,
        "raw_path": PREDICT.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", str(len(BLACK)).encode())],
    }
    holding = asyncio.create_task(api.client.post(PREDICT, content=BLACK))
    await asyncio.sleep(0.1)  # the engine takes it, and is held
    leaving = asyncio.create_task(api.app(scope, receive, send))
    await asyncio.sleep(0.1)
    full = await api.client.post(PREDICT, content=BLACK)
    gone.set()
    await leaving
    after = asyncio.create_task(api.client.post(PREDICT, content=BLACK))
    await asyncio.sleep(0.05)
    gate.open()
    assert full.status_code == 429
    assert sent == []
    assert [(await holding).status_code, (await after).status_code] == [200, 200]


class Breaking(FakeRuntime):
    """Passes its checks, and fails once it is told to."""

    broken = False

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        if self.broken:
            raise InferenceFailed("The engine failed.")
        return super().predict(batch)


async def test_failure_of_the_engine_is_no_fault_of_the_image(
    start: StartAPI, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the engine fails the whole request fails with 500: it is not told as an error of its images."""
    api = await start(load_runtime=Breaking)
    monkeypatch.setattr(Breaking, "broken", True)
    response = await api.client.post(PREDICT, files=files(a=BLACK, b=WHITE))
    problem(response, 500, "inference_failed")


async def test_answers_are_strict_json(api: API) -> None:
    """Answers have no NaN or Infinity, which are not JSON."""
    response = await api.client.post(f"{PREDICT}?top_k=0", content=gray(77))

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads(response.text, parse_constant=refuse)["predictions"]


def test_same_answer_over_the_network(server: Any) -> None:
    """A real server answers raw and multipart requests alike."""
    client: httpx.Client = server.client
    raw = client.post(PREDICT, content=BLACK).json()["predictions"][0]
    part = client.post(PREDICT, files=files(image=BLACK)).json()["predictions"][0]
    assert raw == part


# Deadlines


async def test_a_request_is_given_up_at_its_own_deadline(start: StartAPI, problem: Problem) -> None:
    """Fovea-Timeout-Ms, or the service's own limit if that comes first, ends the waiting with 504."""
    gate = Gate()
    api = await start(load_runtime=gate, request_timeout=0.3)
    gate.close()
    for timeout in ("50", "60000"):
        late = await api.client.post(PREDICT, content=BLACK, headers={"Fovea-Timeout-Ms": timeout})
        problem(late, 504, "deadline_exceeded")
        assert int(late.headers["retry-after"]) >= 1
    gate.open()
    answered = await api.client.post(PREDICT, content=BLACK, headers={"Fovea-Timeout-Ms": "5000"})
    assert answered.status_code == 200


async def test_a_body_that_does_not_come_by_the_deadline_is_counted(start: StartAPI, problem: Problem) -> None:
    """Once, as what was given up later is."""
    api = await start()

    async def slow() -> AsyncIterator[bytes]:
        yield gray(0)[:10]
        await asyncio.sleep(5)

    reply = await api.client.post("/api/v1/predict", content=slow(), headers={"Fovea-Timeout-Ms": "50"})
    problem(reply, 504, "deadline_exceeded")
    assert 'fovea_rejected_total{reason="deadline_exceeded"} 1.0' in api.services.metrics.render().decode()


@pytest.mark.parametrize("text", ["0", "-5", "1.5", "soon", ""])
async def test_a_deadline_that_is_no_number_is_refused(api: API, problem: Problem, text: str) -> None:
    """The answer says what is allowed."""
    response = await api.client.post(PREDICT, content=BLACK, headers={"Fovea-Timeout-Ms": text})
    detail = problem(response, 400, "invalid_request")["detail"]
    assert "whole number of milliseconds, from 1 up" in detail


async def test_a_full_queue_is_noticed_before_the_body_is_read(start: StartAPI) -> None:
    """Who will be refused need not send its pictures first."""
    gate = Gate()
    api = await start(load_runtime=gate, max_queue=1)
    gate.close()
    waiting = asyncio.create_task(api.client.post(PREDICT, content=BLACK))
    await asyncio.sleep(0.1)

    async def unread() -> Any:
        raise AssertionError("the body was read")

    statuses: list[int] = []

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    scope = {
        "type": "http",
        "method": "POST",
        "path": PREDICT,
        "raw_path": PREDICT.encode(),
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"content-length", b"1000")],
    }
    await api.app(scope, unread, send)
    gate.open()
    assert statuses[0] == 429
    assert (await waiting).status_code == 200
