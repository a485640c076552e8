"""What a newcomer does, from the first answer to a better model, over HTTP and with nothing faked."""

from __future__ import annotations

import io
import json
import tarfile
import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from tests.server import Server, running, wait_for

REAL = {"runtime": "openvino", "executor": "local"}
SPEC = {
    "dataset": "blobs",
    "epochs": 6,
    "batch_size": 16,
    "early_stopping": None,
    "architecture": {"name": "simple_cnn", "filters": [8, 8], "dense_units": 16},
}


def _picture(label: str, random: np.random.Generator) -> bytes:
    """A noisy red or blue picture, as PNG."""
    pixels = random.integers(0, 120, (32, 32, 3), np.uint8)
    pixels[..., 0 if label == "red" else 2] += 130
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def archive() -> bytes:
    """A tar.gz of forty pictures in two classes."""
    random = np.random.default_rng(0)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for label in ("blue", "red"):
            for number in range(20):
                data = _picture(label, random)
                entry = tarfile.TarInfo(f"blobs/{label}/{number}.png")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def _job(server: Server, location: str) -> dict[str, Any]:
    document: dict[str, Any] = server.client.get(location).raise_for_status().json()
    return document


def _ask(server: Server, picture: bytes) -> httpx.Response:
    return server.client.post("/api/v1/predict?model=blobs", content=picture, headers={"Content-Type": "image/png"})


def test_from_an_upload_to_a_live_model_through_two_kill_9(tmp_path: Path, archive: bytes) -> None:
    """Upload, train, watch, read the report, promote, ask; the server is killed on the way, and nothing is lost."""
    red = _picture("red", np.random.default_rng(7))
    with running(tmp_path, **REAL) as server:
        # An empty store: alive, not ready, and it says what to do.
        assert server.client.get("/health/live").status_code == 200
        assert server.client.get("/health/ready").status_code == 503
        uploaded = server.client.post(
            "/api/v1/datasets?name=blobs", content=archive, headers={"Content-Type": "application/gzip"}
        )
        assert uploaded.status_code == 201
        assert uploaded.json()["classes"] == {"blue": 20, "red": 20}
        accepted = server.client.post("/api/v1/training-jobs", json={**SPEC, "epochs": 400})
        assert accepted.status_code == 202
        location = accepted.headers["Location"]
        wait_for(lambda: _job(server, location)["epoch"], seconds=120, what="the first epoch")
        server.kill()

    with running(tmp_path, **REAL) as server:
        # The trainer outlived the server, and is found again; it can be cancelled.
        epoch = _job(server, location)["epoch"]
        wait_for(lambda: _job(server, location)["epoch"] > epoch, seconds=60, what="another epoch")
        assert _job(server, location)["state"] == "running"
        assert server.client.post(f"{location}/cancel").status_code in (200, 202)
        wait_for(lambda: _job(server, location)["state"] == "cancelled", what="the cancellation")

        location = server.client.post("/api/v1/training-jobs", json=SPEC).headers["Location"]
        events = _events(server, location)
        assert [event["epoch"] for kind, event in events if kind == "progress" and event.get("epoch")] == [
            1,
            2,
            3,
            4,
            5,
            6,
        ]
        document = _job(server, location)
        assert (document["state"], document["result"]["version"]) == ("succeeded", 1), server.client.get(
            f"{location}/log"
        ).text

        version = server.client.get("/api/v1/models/blobs/versions/1").raise_for_status().json()
        assert version["manifest"]["labels"] == ["blue", "red"]
        assert version["evaluation"]["test"]["images"] == 6
        picture = server.client.get("/api/v1/models/blobs/versions/1/evaluation/curves.svg")
        assert picture.headers["Content-Type"].startswith("image/svg+xml")

        promoted = server.client.post("/api/v1/models/blobs/promote", json={"version": 1, "reason": "the first"})
        assert promoted.status_code == 200, promoted.text
        answer = _ask(server, red).raise_for_status().json()
        assert (answer["version"], answer["predictions"][0]["label"]) == (1, "red")
        assert server.client.get("/health/ready").status_code == 200
        server.kill()

    with running(tmp_path, **REAL) as server:
        # What was acknowledged is there: the dataset, the jobs, the version, the promotion with its reason.
        assert _ask(server, red).json() | {"id": ""} == answer | {"id": ""}
        assert server.client.get("/api/v1/datasets/blobs").status_code == 200
        log = server.client.get("/api/v1/models/blobs/promotions").json()
        assert "the first" in json.dumps(log)
        _promote_under_load(server, location, red)


def _events(server: Server, location: str) -> list[tuple[str, dict[str, Any]]]:
    """All server-sent events of a job, to the end that the server makes."""
    events, kind = [], ""
    with server.client.stream("GET", f"{location}/events", timeout=180) as stream:
        for line in stream.iter_lines():
            name, _, value = line.partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                events.append((kind, json.loads(value)))
    return events


def _promote_under_load(server: Server, location: str, picture: bytes) -> None:
    """Twenty promotions and rollbacks between two versions: not one request fails, and both versions answered."""
    accepted = server.client.post(
        "/api/v1/training-jobs", json={**SPEC, "epochs": 2, "promotion": "always", "precisions": []}
    )
    job = accepted.headers["Location"]
    wait_for(lambda: _job(server, job)["state"] == "succeeded", seconds=120, what="the second version")
    wait_for(lambda: _ask(server, picture).json()["version"] == 2, seconds=5, what="the trainer's promotion")

    stop, statuses, versions = threading.Event(), list[int](), set[int]()

    def load() -> None:
        with httpx.Client(base_url=server.url) as client:
            while not stop.is_set():
                response = client.post("/api/v1/predict?model=blobs", content=picture)
                statuses.append(response.status_code)
                versions.add(response.json().get("version"))

    clients = [threading.Thread(target=load) for _ in range(3)]
    for client in clients:
        client.start()
    for turn in range(20):
        change: tuple[str, dict[str, Any]] = ("rollback", {}) if turn % 2 == 0 else ("promote", {"version": 2})
        response = server.client.post(f"/api/v1/models/blobs/{change[0]}", json=change[1])
        assert response.status_code == 200, response.text
        assert _ask(server, picture).json()["version"] == (1 if turn % 2 == 0 else 2)
    stop.set()
    for client in clients:
        client.join()
    assert set(statuses) == {200}
    assert versions == {1, 2}
