"""`fovea serve` as Amazon SageMaker and Vertex AI start it: real processes, their variables, and what they lay down."""

from __future__ import annotations

import base64
import errno
import http.server
import json
import logging
import os
import shutil
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import platforms
from app.commands import hosted
from app.errors import ConfigurationError, InvalidRequest, StorageFailed
from app.platforms import SAGEMAKER, VERTEX, Platform, detect, settle
from app.settings import Settings
from app.store import google_storage
from app.store.google_storage import download
from app.store.registry import Registry
from tests.server import Server, wait_for
from tests.serving.versions import add_version, gray

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container: what the tests of other commands set is not."""
    for name in ("FOVEA_MODEL_STORE", "FOVEA_WORKSPACE", "FOVEA_RUNTIME", "FOVEA_EXECUTOR", "FOVEA_PORT"):
        monkeypatch.delenv(name, raising=False)


def free_port() -> int:
    """One that nobody listens on, as a platform chooses one."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


def version_folder(tmp_path: Path, **changes: Any) -> Path:
    """One version's folder."""
    registry = Registry(tmp_path / "built")
    add_version(registry, **changes)
    return registry.folder("shapes", 1)


@contextmanager
def hosted_server(folder: Path, variables: Mapping[str, str]) -> Iterator[Server]:
    """The command as a container runs it: nothing is set but what the platform sets."""
    server = Server(folder, variables=variables, port=None, model_store=None, executor=None, access_log=None)
    try:
        yield server
    finally:
        server.stop()


def test_a_sagemaker_container_answers_from_the_first_moment_and_ends_when_told(tmp_path: Path) -> None:
    """Driven as SageMaker does: pinged at once and all along, invoked, and ended by SIGTERM before it would be killed;
    and nobody may change anything."""
    shutil.copytree(version_folder(tmp_path), tmp_path / "ml" / "model")
    port = free_port()
    variables = {"SAGEMAKER_BASE_DIR": str(tmp_path / "ml"), "SAGEMAKER_BIND_TO_PORT": str(port)}
    server = Server(
        tmp_path, wait=False, variables=variables, port=None, model_store=None, executor=None, access_log=None
    )
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:

        def pinged() -> bool:
            try:
                status = client.get("/ping").status_code
            except httpx.ConnectError:  # the port is not open yet
                return False
            assert status in (200, 503)
            return status == 200

        try:
            wait_for(pinged, what="/ping")
            answer = client.post("/invocations", content=IMAGE, headers={"Content-Type": "application/x-image"})
            assert (answer.status_code, answer.json()["model"], answer.json()["version"]) == (200, "shapes", 1)
            assert client.post("/api/v1/models/shapes/promote", json={"version": 1}).status_code == 403
            assert client.post("/models", json={"model_name": "x", "url": "/"}).status_code == 403
            begun = time.monotonic()
            server.terminate()
            assert server.wait() == 0
            assert time.monotonic() - begun < 30
        finally:
            if server.process.poll() is None:
                server.process.kill()
                server.wait()
    assert "NO KEYS ARE ASKED FOR: Amazon SageMaker decides who may call" in server.log


def test_a_multi_model_endpoint_is_ready_without_a_model_and_loads_what_is_laid_down(tmp_path: Path) -> None:
    """The store is empty at the start, and holds afterwards what SageMaker had loaded."""
    variables = {
        "SAGEMAKER_BASE_DIR": str(tmp_path / "ml"),
        "SAGEMAKER_MULTI_MODEL": "true",
        "SAGEMAKER_BIND_TO_PORT": str(free_port()),
    }
    folder = tmp_path / "ml" / "models" / "a1b2" / "model"
    with hosted_server(tmp_path, variables) as server:
        assert wait_for(lambda: server.client.get("/ping").status_code == 200)
        shutil.copytree(version_folder(tmp_path), folder)
        body = {"model_name": "a1b2", "url": str(folder)}
        assert server.client.post("/models", json=body).status_code == 200
        answer = server.client.post(
            "/models/a1b2/invoke",
            content=IMAGE,
            headers={"Content-Type": "image/png", "X-Amzn-SageMaker-Target-Model": "shapes.tar.gz"},
        )
        assert (answer.status_code, answer.json()["model"]) == (200, "a1b2")
        assert server.client.post("/api/v1/models/a1b2/promote", json={"version": 1}).status_code == 403
        assert server.client.post("/v2/repository/models/a1b2/unload").status_code == 403
        assert server.client.delete("/models/a1b2").status_code == 200
        assert server.client.get("/models").json() == {"models": []}


class Bucket(http.server.BaseHTTPRequestHandler):
    """Google Cloud Storage as far as reading goes, two objects a page."""

    root: Path

    def do_GET(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        name = address.path.partition("/storage/v1/b/models/o")[2]
        query = dict(urllib.parse.parse_qsl(address.query))
        files = sorted(str(file.relative_to(self.root)) for file in self.root.rglob("*") if file.is_file())
        if name:
            body = (self.root / urllib.parse.unquote(name[1:])).read_bytes()
            assert query == {"alt": "media"}
        else:
            found = [file for file in files if file.startswith(query["prefix"])] + [query["prefix"]]
            begin = int(query.get("pageToken", 0))
            document: dict[str, Any] = {"items": [{"name": file} for file in found[begin : begin + 2]]}
            if begin + 2 < len(found):
                document["nextPageToken"] = str(begin + 2)
            body = json.dumps(document).encode()
        self.send_response(200 if address.path.startswith("/storage/v1/b/models/") else 403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder that is the bucket `models`, and the address of its server."""
    root = tmp_path / "bucket"
    root.mkdir()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Here", (Bucket,), {"root": root})) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield root, f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_a_vertex_ai_container_takes_port_routes_and_model_from_its_variables(
    tmp_path: Path, bucket: tuple[Path, str]
) -> None:
    """The model is copied from the bucket; health and predictions are where Vertex AI asks for them."""
    root, address = bucket
    shutil.copytree(version_folder(tmp_path), root / "shapes" / "7")
    variables = {
        "AIP_HTTP_PORT": str(free_port()),
        "AIP_HEALTH_ROUTE": "/v1/endpoints/1/deployedModels/2",
        "AIP_PREDICT_ROUTE": "/v1/endpoints/1/deployedModels/2:predict",
        "AIP_STORAGE_URI": "gs://models/shapes/7",
        "AIP_MODE": "PREDICTION",
        "STORAGE_EMULATOR_HOST": address,
    }
    with hosted_server(tmp_path, variables) as server:
        assert server.port == int(variables["AIP_HTTP_PORT"])
        assert server.client.get(variables["AIP_HEALTH_ROUTE"]).status_code == 200
        answer = server.client.post(variables["AIP_PREDICT_ROUTE"], json={"instances": [ENCODED] * 2})
        assert answer.status_code == 200
        assert len(answer.json()["predictions"]) == 2
        assert set(answer.json()["predictions"][0]) == {"ids", "displayNames", "confidences"}
        assert server.client.post("/api/v1/models/shapes/rollback").status_code == 403
    assert "NO KEYS ARE ASKED FOR: Vertex AI decides who may call" in server.log


def test_platforms_are_known_by_what_only_they_set(tmp_path: Path) -> None:
    """Nothing is taken for one without its variables or its folder."""
    (tmp_path / "model").mkdir()
    base = {"SAGEMAKER_BASE_DIR": str(tmp_path)}
    nowhere = {"SAGEMAKER_BASE_DIR": str(tmp_path / "none")}
    assert detect({"AIP_STORAGE_URI": "gs://a/b", "SAGEMAKER_REGION": "eu", **nowhere}) is None
    assert detect(base) == Platform(SAGEMAKER, 8080, tmp_path / "model")
    assert detect({**nowhere, "SAGEMAKER_BIND_TO_PORT": "9"}) == Platform(SAGEMAKER, 9, None)
    multi = {**base, "SAGEMAKER_MULTI_MODEL": "true"}
    assert detect(multi) == Platform(SAGEMAKER, 8080, None, tmp_path / "models")
    assert detect({"AIP_MODE": "PREDICTION"}) == Platform(VERTEX, 8080, None)
    assert detect({"AIP_HTTP_PORT": "7080", "AIP_STORAGE_URI": "gs://a"}) == Platform(VERTEX, 7080, "gs://a")
    for port in ("x", "70000", "-1"):
        with pytest.raises(ConfigurationError, match="AIP_HTTP_PORT"):
            detect({"AIP_HTTP_PORT": port})


def test_what_is_set_explicitly_wins_over_the_platform(tmp_path: Path) -> None:
    """Its defaults hold where nothing is set; keys end the platform's being let in without one."""
    settled = settle(Settings(), Platform(SAGEMAKER, 8080, tmp_path))
    assert (settled.host, settled.port, settled.executor, settled.anonymous) == ("0.0.0.0", 8080, "none", "predict")
    assert settled.shutdown_grace + 5 < 30
    assert settled.request_timeout < 60
    settled.check()
    chosen = Settings(port=1, allow_anonymous=False, shutdown_grace=3)
    settled = settle(chosen, Platform(VERTEX, 8080, None))
    assert (settled.port, settled.shutdown_grace) == (1, 3)
    with pytest.raises(ConfigurationError, match="without API keys"):
        settled.check()
    keyed = settle(Settings(api_keys=tmp_path / "keys"), Platform(VERTEX, 8080, None))
    assert (keyed.allow_anonymous, keyed.anonymous) == (False, "all")
    assert settle(Settings(), Platform(SAGEMAKER, 8080, None, tmp_path)).anonymous == "models"


def test_a_folder_that_only_lies_there_opens_no_other_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook or a training job of SageMaker too there is such a folder; the image sets its address."""
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(platforms, "_BASE", tmp_path)
    platform = detect({})
    assert platform == Platform(SAGEMAKER, 8080, tmp_path / "model", declared=False)
    assert settle(Settings(), platform).host == "127.0.0.1"
    assert settle(Settings(host="0.0.0.0"), platform).anonymous == "predict"
    assert detect({"SAGEMAKER_BIND_TO_PORT": "8080"}) == Platform(SAGEMAKER, 8080, tmp_path / "model")


def test_a_store_is_served_where_it_lies_and_a_version_becomes_a_store(tmp_path: Path) -> None:
    """Whatever was in the archive; an empty folder leaves the models of the image, and what is set explicitly wins."""
    laid = tmp_path / "model"
    settings = Settings(workspace=tmp_path / "workspace")

    def taken() -> Path:
        return hosted.take_in(settings, Platform(SAGEMAKER, 8080, laid)).model_store

    laid.mkdir()
    assert taken() == settings.model_store
    add_version(Registry(laid), "lines")
    made = taken()  # a store without a promotion, of one version: it can only be meant
    assert Registry(made).production("lines") is not None
    add_version(Registry(laid), "lines", promote=True)
    assert taken() == laid
    shutil.rmtree(laid)
    shutil.copytree(version_folder(tmp_path), laid)
    for _ in range(2):  # as when the container is started again
        assert Registry(taken()).versions("shapes") == [1]
    chosen = Settings(model_store=tmp_path / "mine")
    assert hosted.take_in(chosen, Platform(SAGEMAKER, 8080, laid)) == chosen


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EXDEV, "another file system")


def test_what_is_no_model_stops_the_start_with_what_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not a service that never becomes ready."""
    laid = tmp_path / "model"
    settings = Settings(workspace=tmp_path / "workspace")

    def refusal() -> str:
        with pytest.raises(ConfigurationError) as caught:
            hosted.take_in(settings, Platform(SAGEMAKER, 8080, laid))
        return str(caught.value)

    assert "no such folder" in refusal()
    (laid / "code").mkdir(parents=True)
    assert "one version's folder" in refusal()
    add_version(Registry(laid), "lines")
    add_version(Registry(laid), "lines")
    assert "2 versions of lines" in refusal()
    add_version(Registry(laid), "other")
    assert "lines, other" in refusal()
    shutil.rmtree(laid)
    shutil.copytree(version_folder(tmp_path), laid)
    (laid / "golden" / "0.png").write_bytes(b"other")
    assert "golden/0.png" in refusal()
    (laid / "golden" / "0.png").unlink()
    os.mkfifo(laid / "golden" / "0.png")
    monkeypatch.setattr("os.link", refuse)  # as between file systems
    assert "golden/0.png" in refusal()
    (laid / "model.json").write_text("{}")
    assert "model.json" in refusal()


def test_vertex_ai_may_name_a_folder_or_a_bucket_and_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another scheme is not taken for a path; what FOVEA_MODEL_STORE makes idle is said, as is who gave no
    token."""
    folder, settings = version_folder(tmp_path), Settings(workspace=tmp_path / "workspace")

    def take(address: str, settings: Settings = settings) -> Settings:
        return hosted.take_in(settings, Platform(VERTEX, 8080, address))

    assert Registry(take(str(folder)).model_store).versions("shapes") == [1]
    with pytest.raises(
        ConfigurationError, match=r"AIP_STORAGE_URI is 's3://models/a'.*gs://bucket/folder, or the path"
    ):
        take("s3://models/a")
    chosen = Settings(model_store=tmp_path / "mine", workspace=tmp_path / "workspace")
    with caplog.at_level(logging.WARNING):
        assert take("gs://models/a", chosen) == chosen
    assert "FOVEA_MODEL_STORE is set" in caplog.text
    assert "gs://models/a" in caplog.text
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google_storage, "_TOKEN", "http://127.0.0.1:9/token")
    with pytest.raises(ConfigurationError, match=r"the metadata server, .* gives none .*Elsewhere copy the folder"):
        take("gs://models/a")


def test_a_bucket_that_cannot_be_read_is_an_error_and_no_name_leads_out(
    tmp_path: Path, bucket: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what is missing."""
    root, address = bucket
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", address)
    (root / "a").mkdir()
    (root / "a" / "..b").write_bytes(b"x")
    with pytest.raises(InvalidRequest, match="no file of a model store"):
        download("gs://models/a", tmp_path / "1")
    with pytest.raises(InvalidRequest, match="nothing at gs://models/none"):
        download("gs://models/none", tmp_path / "2")
    with pytest.raises(InvalidRequest, match="gs://bucket/folder"):
        download("s3://models/a", tmp_path / "3")
    with pytest.raises(StorageFailed, match="Storage Object Viewer"):
        download("gs://other/a", tmp_path / "4")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "127.0.0.1:9")
    with pytest.raises(StorageFailed, match="cannot be read"):
        download("gs://models/a", tmp_path / "5")
