"""The proxy's configuration, run by a real nginx in front of a stand-in for the service."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from app.api.errors import codes
from app.settings import Settings
from app.store.registry import Registry
from tests.server import running, wait_for
from tests.serving.versions import add_version, gray
from tests.system import require_tool

FOLDER = Path(__file__).parents[2] / "deploy/nginx"
MOST = Settings.model_fields["max_body_bytes"].default


@dataclass
class Upstream:
    """What the stand-in saw, and the signals that it waits for."""

    port: int = 0
    heads: list[tuple[str, str, str]] = field(default_factory=list)
    first_bytes: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)


def handler(upstream: Upstream) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            upstream.heads.append((self.command, self.path, self.headers["Host"]))
            if self.path.endswith("/events"):
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                self.wfile.write(b"data: one\n\n")
                assert upstream.go_on.wait(10)
                self.wfile.write(b"data: two\n\n")
                self.close_connection = True
            else:
                self.answer(200, b"{}")

        def do_POST(self) -> None:
            upstream.heads.append((self.command, self.path, self.headers["Host"]))
            if self.rfile.read(1):
                upstream.first_bytes.set()
            left = int(self.headers["Content-Length"]) - 1
            while left > 0 and (part := self.rfile.read(min(left, 1 << 16))):
                left -= len(part)
            self.answer(429 if self.path == "/api/v1/predict" else 201, b'{"code": "overloaded"}')

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/problem+json" if status >= 400 else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@dataclass(frozen=True)
class Proxy:
    port: int
    upstream: Upstream

    def ask(
        self, method: str, path: str, *, host: str = "localhost", length: int | None = None, body: bytes = b""
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """One request; `length` may promise more than `body` keeps."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host)
        if method == "POST":
            connection.putheader("Content-Length", str(len(body) if length is None else length))
        connection.endheaders(body)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response, content

    @contextmanager
    def raw(self, data: bytes) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(data)
            yield connection


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def substitute(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(folder: Path, upstream: Upstream, *, loopback: bool = True, addresses: Sequence[int] = ()) -> Iterator[Proxy]:
    """The committed configuration but for addresses, folders, and a tenth of its patience.

    `addresses`: ports of several instances, which the name of the service stands for.
    """
    port = free_port()
    servers = "".join(f"server 127.0.0.1:{each} max_fails=0;" for each in addresses or [upstream.port])
    listen = ("listen 8080", f"listen 127.0.0.1:{port}")
    (folder / "sites").mkdir()
    if loopback:
        (folder / "sites/loopback.conf").write_text(substitute((FOLDER / "loopback.conf").read_text(), listen))
    configuration = folder / "nginx.conf"
    configuration.write_text(
        substitute(
            (FOLDER / "nginx.conf").read_text(),
            listen,
            ("http://fovea:8000", "http://instances"),
            ("http {", f"http {{ upstream instances {{ {servers} }}"),
            (" /tmp/", f" {folder}/"),
            ("/etc/nginx/fovea", f"{folder}/sites"),
            ("client_header_timeout 10s", "client_header_timeout 1s"),
            ("client_body_timeout 10s", "client_body_timeout 1s"),
        )
    )
    own = "daemon off; worker_processes 1;" + (" user root;" if os.geteuid() == 0 else "")
    text = configuration.read_text().replace("worker_processes auto;", "")
    configuration.write_text(text)
    command: list[str | Path] = [
        require_tool("nginx"),
        "-p",
        folder,
        "-c",
        configuration,
        "-e",
        folder / "error.log",
        "-g",
        own,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            assert process.poll() is None, (folder / "error.log").read_text()
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield Proxy(port, upstream)
    finally:
        process.terminate()
        process.wait(20)


class Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Silent for connections that the proxy cut; they are what is tested."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    state = Upstream()
    server = Server(("127.0.0.1", 0), handler(state))
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield state
    state.go_on.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def proxy(tmp_path: Path, upstream: Upstream) -> Iterator[Proxy]:
    with nginx(tmp_path, upstream) as running:
        yield running


def problem(response: http.client.HTTPResponse, body: bytes) -> dict[str, object]:
    assert response.getheader("Content-Type") == "application/problem+json"
    document: dict[str, object] = json.loads(body)
    assert document["status"] == response.status
    return document


def test_requests_pass_with_the_name_that_the_client_used(proxy: Proxy) -> None:
    """The service compares Host and Origin, so both must arrive unchanged."""
    response, body = proxy.ask("GET", "/api/v1/models?x=%2e", host="localhost:8000")
    assert (response.status, body) == (200, b"{}")
    assert proxy.upstream.heads == [("GET", "/api/v1/models?x=%2e", "localhost:8000")]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.5:8000"])
def test_without_keys_only_this_machines_names_are_answered(proxy: Proxy, host: str) -> None:
    """A page that points its own name at this machine (DNS rebinding) does not get through."""
    response, body = proxy.ask("GET", "/api/v1/models", host=host)
    assert response.status == 421
    assert problem(response, body)["code"] == "misdirected_request"
    assert proxy.upstream.heads == []
    response, _ = proxy.ask("GET", "/api/v1/models", host="127.0.0.1:8000")
    assert response.status == 200


def test_with_keys_every_name_is_answered(tmp_path: Path, upstream: Upstream) -> None:
    """deploy/compose.keys.yml leaves loopback.conf out."""
    with nginx(tmp_path, upstream, loopback=False) as proxy:
        response, _ = proxy.ask("GET", "/api/v1/models", host="fovea.example.com")
    assert response.status == 200


def test_metrics_are_not_for_clients(proxy: Proxy) -> None:
    """Prometheus asks the service itself."""
    response, _ = proxy.ask("GET", "/metrics")
    assert response.status == 404
    assert proxy.upstream.heads == []


def test_a_body_over_the_cap_is_refused_before_it_is_sent(proxy: Proxy) -> None:
    """The proxy's cap is the service's; the answer is a problem document like the service's."""
    response, body = proxy.ask("POST", "/api/v1/predict", length=MOST + 1)
    assert response.status == 413
    assert problem(response, body)["code"] == "payload_too_large"
    assert proxy.upstream.heads == []
    response, _ = proxy.ask("POST", "/api/v1/other", body=bytes(MOST))
    assert response.status == 201


def test_a_dataset_may_be_larger_and_goes_straight_through(proxy: Proxy) -> None:
    """Its first bytes arrive while the rest is still with the client."""
    largest = Settings.model_fields["max_upload_bytes"].default
    head = f"POST /api/v1/datasets?name=x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {largest}\r\n\r\n"
    with proxy.raw(head.encode() + bytes(1000)):
        assert proxy.upstream.first_bytes.wait(10)
    response, body = proxy.ask("POST", "/api/v1/datasets", length=largest + 1)
    assert problem(response, body)["code"] == "payload_too_large"


def test_a_slow_body_never_reaches_the_service(proxy: Proxy) -> None:
    """Only whole requests are passed on; a client that falls silent is dropped."""
    head = b"POST /api/v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nx"
    with proxy.raw(head) as connection, pytest.raises(ConnectionResetError):
        connection.recv(65536)
    assert proxy.upstream.heads == []


def test_a_slow_head_is_dropped(proxy: Proxy) -> None:
    """A client that never finishes its head holds its connection for no longer than the time limit."""
    with proxy.raw(b"GET / HTTP/1.1\r\nHost: local") as connection, pytest.raises(ConnectionResetError):
        connection.recv(65536)
    assert proxy.upstream.heads == []


def test_errors_of_the_service_pass_unchanged(proxy: Proxy) -> None:
    """The proxy's own pages replace nothing that the service says."""
    response, body = proxy.ask("POST", "/api/v1/predict", body=b"x")
    assert (response.status, body) == (429, b'{"code": "overloaded"}')


def test_a_service_that_is_away_is_a_problem_document(tmp_path: Path) -> None:
    """With a time after which to try again."""
    with nginx(tmp_path, Upstream(port=free_port())) as proxy:
        response, body = proxy.ask("GET", "/api/v1/models")
    assert response.status == 502
    assert problem(response, body)["code"] == "bad_gateway"
    assert response.getheader("Retry-After") == "1"


def test_events_of_a_job_are_passed_on_at_once(proxy: Proxy) -> None:
    """The first is there before the service has written the second."""
    head = b"GET /api/v1/training-jobs/7/events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with proxy.raw(head) as connection:
        received = b""
        while b"data: one\n\n" not in received:
            received += connection.recv(65536)
        assert b"data: two" not in received
        proxy.upstream.go_on.set()
        while b"data: two\n\n" not in received:
            received += connection.recv(65536)


def test_a_rolling_restart_drops_no_request(tmp_path: Path) -> None:
    """Two instances are replaced under load: each stops while the proxy still sends to it, and the one that takes its
    place, being ready, is told to the proxy afterwards. Every request is answered."""
    add_version(Registry(tmp_path / "store"), promote=True)
    (tmp_path / "proxy").mkdir()
    stop = threading.Event()
    outcomes: list[int | str] = []
    with ExitStack() as stack:
        instances = [stack.enter_context(running(tmp_path)) for _ in range(2)]
        addresses = [instance.port for instance in instances]
        proxy = stack.enter_context(nginx(tmp_path / "proxy", Upstream(), addresses=addresses))

        def load() -> None:
            while not stop.is_set():
                try:
                    outcomes.append(proxy.ask("POST", "/api/v1/predict", body=gray(0))[0].status)
                except (OSError, http.client.HTTPException) as error:
                    outcomes.append(type(error).__name__)

        def more_answers() -> None:
            served = len(outcomes)
            wait_for(lambda: len(outcomes) > served + 100, what="100 answers")

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for old in instances:
                new = stack.enter_context(running(tmp_path))
                more_answers()
                assert old.stop() == 0
                more_answers()
                configuration = tmp_path / "proxy/nginx.conf"
                moved = substitute(configuration.read_text(), (f"127.0.0.1:{old.port} ", f"127.0.0.1:{new.port} "))
                configuration.write_text(moved)
                os.kill(int((tmp_path / "proxy/nginx.pid").read_text()), signal.SIGHUP)
            more_answers()
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert set(outcomes) == {200}


def test_the_proxys_problems_are_those_of_the_service() -> None:
    """Status and title of every code that the service knows too are the same in both."""
    text = (FOLDER / "nginx.conf").read_text() + (FOLDER / "loopback.conf").read_text()
    documents = [json.loads(found) for found in re.findall(r"'(\{.*\})'", text)]
    known = codes()
    shared = [document for document in documents if document["type"] != "about:blank"]
    assert {document["code"] for document in shared} == {
        "payload_too_large",
        "overloaded",
        "misdirected_request",
    }
    for document in shared:
        assert document["type"] == f"/docs/errors#{document['code']}"
        assert (document["status"], document["title"]) == known[document["code"]][:2]
    assert len(documents) == len(shared) + 2


def test_long_checks_of_a_dataset_are_waited_for() -> None:
    """Proxy and ingress wait for the answer to an upload for as long as the upload itself may take."""
    datasets = (
        (FOLDER / "nginx.conf").read_text("utf-8").partition("location = /api/v1/datasets {")[2].partition("}")[0]
    )
    [hours] = re.findall(r"proxy_read_timeout (\d+)h;", datasets)
    ingress = (FOLDER.parents[1] / "k8s/overlays/example/ingress.yaml").read_text("utf-8")
    [seconds] = re.findall(r'name: fovea-datasets\n(?: .*\n)*? .*proxy-read-timeout: "(\d+)"', ingress)
    assert int(hours) * 3600 >= Settings.model_fields["upload_timeout"].default
    assert int(seconds) >= Settings.model_fields["upload_timeout"].default
