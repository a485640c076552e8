"""The service as a process: sockets, signals, several workers."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.api import banner
from app.api.listening import listen
from app.api.security import make_key
from app.cores import available_cores
from app.errors import ConfigurationError
from app.settings import Settings
from app.store.registry import Registry
from tests.api.conftest import Keyring
from tests.deploy.test_proxy import free_port
from tests.server import Server, running, wait_for
from tests.serving.versions import add_version, gray
from tests.system import require_tool

PREDICT = "/api/v1/predict"
IMAGE = gray(0)


@pytest.fixture
def store(tmp_path: Path) -> Registry:
    """The store of servers in `tmp_path`: `shapes`, version 1 in production, version 2 not."""
    registry = Registry(tmp_path / "store")
    add_version(registry, promote=True)
    add_version(registry)
    return registry


@contextlib.contextmanager
def connection(server: Server, data: bytes) -> Iterator[socket.socket]:
    """A connection on which `data` was sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as opened:
        opened.sendall(data)
        yield opened


def read_all(opened: socket.socket) -> bytes:
    """Everything up to the end of the connection."""
    received = b""
    while chunk := opened.recv(65536):
        received += chunk
    return received


def head(length: int, *more: str) -> bytes:
    """The beginning of a predict request with a body of `length` bytes."""
    lines = [f"POST {PREDICT} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def test_slow_body_is_cut_off_with_408(server: Server) -> None:
    """A client that does not send its body in time gets 408, and the connection is closed."""
    with connection(server, head(1000) + b"x") as opened:
        answer = read_all(opened)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code": "request_timeout"' in answer


def test_stalled_sockets_do_not_hurt_others(server: Server) -> None:
    """While 300 clients stall, in the headers or in the body, others are answered as ever; and they are got rid of."""
    stalled = []
    try:
        for number in range(300):
            opened = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            opened.sendall(head(1000) + b"x" if number % 2 else b"POST /api/v1/predict HTTP/1.1\r\nHost: 127")
            stalled.append(opened)
        for _ in range(20):
            assert server.client.post(PREDICT, content=IMAGE).status_code == 200
            assert server.client.get("/health/ready").status_code == 200
        for opened in stalled[1::2]:
            assert read_all(opened).startswith(b"HTTP/1.1 408")
        for opened in stalled[::2]:
            assert read_all(opened) == b""
    finally:
        for opened in stalled:
            opened.close()
    assert server.client.post(PREDICT, content=IMAGE).status_code == 200


def test_head_has_a_time_limit_and_idling_between_requests_another(server: Server) -> None:
    """A kept connection may idle for longer than a head may take; the head that then never ends costs it."""
    get = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with connection(server, b"") as opened:
        for pause in (0, 2.2):
            time.sleep(pause)
            opened.sendall(get)
            answer = b""
            while not answer.endswith(b"}"):
                received = opened.recv(65536)
                assert received
                answer += received
        opened.sendall(get[:-2])
        assert read_all(opened) == b""
    with connection(server, b"") as silent:
        assert read_all(silent) == b""


@pytest.mark.parametrize("chunked", [False, True])
def test_client_hears_why_its_large_body_is_refused(tmp_path: Path, store: Registry, chunked: bool) -> None:
    """A client that sends far more than allowed gets the 413 to read, and no broken connection."""
    with running(tmp_path, max_body_bytes=100_000) as server:
        for _ in range(5):
            body = (b"x" * 65536 for _ in range(200)) if chunked else b"x" * 13_000_000
            response = server.client.post(PREDICT, content=body)
            assert response.status_code == 413
            assert "100000" in response.json()["detail"]


def test_declared_length_over_the_cap_is_refused_before_the_body(server: Server) -> None:
    """A client that asks first (Expect: 100-continue) is refused without having sent a byte."""
    with connection(server, head(10**12, "Expect: 100-continue")) as opened:
        begin = opened.recv(65536)
    assert begin.startswith(b"HTTP/1.1 413")
    assert b"100 Continue" not in begin


def test_client_that_never_stops_sending_is_cut_off(server: Server) -> None:
    """After a refusal a client that goes on sending for ever is not listened to for long."""
    with connection(
        server, f"POST {PREDICT} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {10**12}\r\n\r\n".encode()
    ) as opened:
        ended = False
        deadline = time.monotonic() + 20
        while not ended and time.monotonic() < deadline:
            try:
                opened.sendall(b"x" * 10_000)
                time.sleep(0.05)
            except OSError:
                ended = True
    assert ended


def test_start_names_the_model_where_requests_must(tmp_path: Path, store: Registry) -> None:
    """With a default model that is not there, the command names one that is."""
    with running(tmp_path, default_model="none") as server:
        assert "/api/v1/predict?model=shapes" in server.output


def test_start_says_all_that_a_newcomer_needs(tmp_path: Path, store: Registry) -> None:
    """The start prints address, model, version, its accuracy, the docs page, and a curl line that works as printed."""
    curl = require_tool("curl")
    data = {"dataset": "lines", "sha256": "0" * 64, "counts": {"train": 8_000, "test": 5_000}}
    better = add_version(store, promote=True, metrics={"accuracy": 0.914}, data=data)
    with running(tmp_path) as server:
        said = server.output
        assert f"shapes, version {better} (91.4% of 5,000 test images right)" in said
        assert f"Store  {tmp_path / 'store'}\n" in said
        assert f"Work   {tmp_path / 'workspace'} " in said
        assert "Keys   none needed" in said
        assert f"{server.url}/docs" in said
        [command] = re.findall(r"Try\s+(curl .+)", said)
        done = subprocess.run(
            command.replace("curl", f"{curl} --silent --fail-with-body", 1), shell=True, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"] == better


def test_start_says_the_address_that_it_really_listens_on() -> None:
    """All addresses are called so, though the command is for this machine."""
    settings = Settings(host="0.0.0.0", port=0)
    with contextlib.closing(listen(settings)) as listener:
        port = listener.getsockname()[1]
        assert banner.listening(listener) == f"http://0.0.0.0:{port} (all addresses of this machine)"
        assert banner.base_url(settings, listener) == f"http://127.0.0.1:{port}"
    with contextlib.closing(listen(Settings(port=0))) as listener:
        assert banner.listening(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_start_with_an_empty_store_says_what_to_do(tmp_path: Path) -> None:
    """Without a model the start prints how to get one, and the command is accepted."""
    curl = require_tool("curl")
    with running(tmp_path) as server:
        [command] = re.findall(r"^\s+(curl .+)", server.output, re.MULTILINE)
        done = subprocess.run(
            command.replace("curl", f"{curl} --silent", 1), shell=True, capture_output=True, text=True
        )
    assert json.loads(done.stdout)["state"] == "queued"


def test_taken_port_is_said_with_the_way_out() -> None:
    """A port that is in use is named, and what to do about it, without the words of the system."""
    first = listen(Settings(port=0))
    with contextlib.closing(first), pytest.raises(ConfigurationError, match=r"in use.*make serve.*FOVEA_PORT") as said:
        listen(Settings(port=first.getsockname()[1]))
    assert "while attempting" not in str(said.value)
    with pytest.raises(ConfigurationError, match=r"Cannot listen on port 0 of 192\.0\.2\.1: [^(]+ FOVEA_HOST"):
        listen(Settings(host="192.0.2.1", port=0))
    with pytest.raises(ConfigurationError, match="FOVEA_HOST"):
        listen(Settings(host="no-such-host.invalid", port=0))


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_answers_what_is_in_flight_and_ends_well(tmp_path: Path, store: Registry, workers: int) -> None:
    """After SIGTERM a request under way is answered, new connections are not taken, and the exit status is 0."""
    with running(tmp_path, workers=workers) as server, connection(server, head(len(IMAGE)) + IMAGE[:10]) as opened:
        time.sleep(0.2)
        server.terminate()
        wait_for(lambda: not accepts(server), what="the end of listening")
        opened.sendall(IMAGE[10:])
        answer = read_all(opened)
        assert answer.startswith(b"HTTP/1.1 200")
        assert b'"label":"horizontal"' in answer
        assert server.wait() == 0
    assert server.log.count("Shutting down: requests in flight are answered") == workers


def accepts(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except OSError:
        return False
    return True


def test_grace_is_not_exceeded(tmp_path: Path, store: Registry) -> None:
    """A request that would never end does not keep the process beyond its grace."""
    with running(tmp_path, shutdown_grace=1) as server, connection(server, head(len(IMAGE)) + IMAGE[:10]):
        time.sleep(0.2)
        server.terminate()
        assert server.wait(15) == 0


def test_streams_of_events_end_at_sigterm(tmp_path: Path, store: Registry) -> None:
    """Open event streams end when the service does, long before its grace is over."""
    with running(tmp_path, shutdown_grace=60) as server:
        address = server.client.post("/api/v1/training-jobs", json={"dataset": "shapes"}).headers["location"]
        with httpx.stream("GET", f"{server.url}{address}/events", timeout=30) as stream:
            lines = stream.iter_lines()
            next(lines)
            server.terminate()
            assert "queued" in "".join(lines)
        assert server.wait(20) == 0


def test_job_that_was_queued_survives_the_server(tmp_path: Path, store: Registry) -> None:
    """A job that was accepted is there after a kill -9 and a new start."""
    with running(tmp_path) as server:
        job = server.client.post("/api/v1/training-jobs", json={"dataset": "shapes"}).json()
        server.kill()
    with running(tmp_path) as server:
        assert server.client.get(f"/api/v1/training-jobs/{job['id']}").json()["state"] == "queued"


def test_promotion_under_load_drops_no_request(tmp_path: Path, store: Registry) -> None:
    """While versions are promoted and rolled back, every request is answered, by one or the other."""
    with running(tmp_path) as server:
        stop = threading.Event()
        statuses: list[int] = []
        versions: set[int] = set()

        def load() -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    response = client.post(PREDICT, content=IMAGE)
                    statuses.append(response.status_code)
                    versions.add(response.json()["version"])

        threads = [threading.Thread(target=load) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(10):
            assert server.client.post("/api/v1/models/shapes/promote", json={"version": 2}).status_code == 200
            assert server.client.post("/api/v1/models/shapes/rollback").status_code == 200
        stop.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}
    assert versions == {1, 2}


def test_workers_share_port_metrics_and_promotions(tmp_path: Path, store: Registry) -> None:
    """Several processes answer on one port: `/metrics` of any counts for all, all follow a promotion, and one that is
    killed is replaced."""
    with running(tmp_path, workers=2) as server:
        for _ in range(30):
            assert httpx.post(f"{server.url}{PREDICT}", content=IMAGE).status_code == 200
        counted = f'fovea_requests_total{{method="POST",route="{PREDICT}",status="200"}} 30.0'
        wait_for(lambda: counted in httpx.get(f"{server.url}/metrics").text, what="the count of all")
        assert server.client.post("/api/v1/models/shapes/promote", json={"version": 2}).status_code == 200

        def all_follow() -> bool:
            answers = [httpx.post(f"{server.url}{PREDICT}", content=IMAGE).json() for _ in range(20)]
            return {answer["version"] for answer in answers} == {2}

        wait_for(all_follow, what="the promotion in all workers")
        before = children(server)
        assert len(before) == 2
        os.kill(before[0], signal.SIGKILL)
        wait_for(lambda: len(children(server)) == 2 and before[0] not in children(server), what="a new worker")
        assert httpx.get(f"{server.url}/health/live").status_code == 200
        assert server.stop() == 0
        assert all(not Path(f"/proc/{child}").exists() for child in before)


def test_ready_and_announced_only_when_all_workers_have_loaded(tmp_path: Path, store: Registry) -> None:
    """While one worker is held up, the others live and answer, but the service is not ready, nor does it say so."""
    port = free_port()
    server = Server(tmp_path, workers=2, port=port, wait=False)
    try:
        _, held_up = wait_for(lambda: len(found := children(server)) == 2 and found, what="the workers")
        os.kill(held_up, signal.SIGSTOP)

        def status(path: str) -> int:
            try:
                return httpx.get(f"http://127.0.0.1:{port}{path}").status_code
            except httpx.TransportError:
                return 0

        wait_for(lambda: status("/health/live") == 200, what="the first worker")
        wait_for(lambda: httpx.post(f"http://127.0.0.1:{port}{PREDICT}", content=IMAGE).status_code == 200)
        for _ in range(10):
            assert (status("/health/ready"), status("/health/startup"), status("/health/live")) == (503, 503, 200)
            time.sleep(0.02)
        reason = httpx.get(f"http://127.0.0.1:{port}/health/ready").json()["reason"]
        assert reason == "Other processes are still loading the models."
        assert server.output == ""
        os.kill(held_up, signal.SIGCONT)
        server.announced()
        # Either may be asked, and both are there.
        assert {status("/health/ready") for _ in range(20)} == {200}
        assert {status("/health/startup") for _ in range(20)} == {200}
    finally:
        server.stop()


def test_a_worker_that_dies_costs_no_answer(tmp_path: Path, store: Registry) -> None:
    """Requests that a killed worker held break; no other fails, neither before nor after another takes its place."""
    models = 25  # so that loading takes a while
    for number in range(models - 1):
        add_version(store, f"m{number}", promote=True)
    with running(tmp_path, workers=2, default_model="shapes") as server:
        stop = threading.Event()
        outcomes: list[int | str] = []

        def load() -> None:
            while not stop.is_set():
                # A connection each: any worker may take it.
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
                try:
                    connection.request("POST", PREDICT, IMAGE)
                    outcomes.append(connection.getresponse().status)
                except (OSError, http.client.HTTPException) as error:
                    outcomes.append(type(error).__name__)
                finally:
                    connection.close()

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        os.kill(children(server)[0], signal.SIGKILL)
        wait_for(lambda: server.log.count("answers from now on") == 3 * models, what="a new worker")
        served = len(outcomes)
        wait_for(lambda: len(outcomes) > served + 200, what="200 more answers")
        stop.set()
        for thread in threads:
            thread.join()
        assert {outcome for outcome in outcomes if isinstance(outcome, int)} == {200}
        broken = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(broken) <= len(threads), broken
        assert server.output.count("listens on") == 1


@pytest.fixture
def two_cores() -> Iterator[None]:
    """Servers that are started find two cores."""
    if not hasattr(os, "sched_getaffinity"):
        pytest.skip("this system binds no process to cores")
    all_cores = os.sched_getaffinity(0)
    if available_cores() == 1:
        pytest.skip("there is one core only")
    os.sched_setaffinity(0, sorted(all_cores)[:2])
    yield
    os.sched_setaffinity(0, all_cores)


@pytest.mark.usefixtures("two_cores")
def test_auto_finds_how_many_workers_suit_and_remembers(tmp_path: Path, store: Registry) -> None:
    """The first start goes over from one worker to as many as suit, without an answer lost; the next begins so."""
    port = free_port()
    server = Server(tmp_path, workers="auto", port=port, wait=False)
    outcomes: list[int] = []
    try:
        first = wait_for(lambda: children(server), what="the first worker")
        assert len(first) == 1

        def answered() -> bool:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            with contextlib.closing(connection), contextlib.suppress(ConnectionRefusedError):
                connection.request("POST", PREDICT, IMAGE, {"Connection": "close"})
                outcomes.append(connection.getresponse().status)
            return outcomes[-1:] == [200]

        wait_for(answered, what="the first answer")
        served = len(outcomes)
        while not server.output:
            answered()
        assert set(outcomes[served:]) <= {200}
        server.announced()
        assert server.client.get("/health/ready").status_code == 200
        assert len(children(server)) == 2
        assert first[0] not in children(server)
    finally:
        assert server.stop() == 0
    with running(tmp_path, workers="auto") as server:
        assert len(children(server)) == 2


def test_connections_spread_evenly_over_workers(tmp_path: Path, store: Registry) -> None:
    """Of clients that connect all at once, and stay, each worker gets its part."""
    with running(tmp_path, workers=2) as server, contextlib.ExitStack() as stack:
        workers = children(server)
        before = [sockets(worker) for worker in workers]
        for _ in range(32):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20))

        def held() -> list[int]:
            return [sockets(worker) - number for worker, number in zip(workers, before, strict=True)]

        wait_for(lambda: sum(held()) == 32, what="that all are accepted")
        assert min(held()) >= 8


def sockets(process: int) -> int:
    """How many sockets a process has open."""
    opened = Path(f"/proc/{process}/fd").iterdir()
    return sum(str(descriptor.readlink()).startswith("socket:") for descriptor in opened)


def test_workers_do_not_outlive_their_parent(tmp_path: Path, store: Registry) -> None:
    """When the parent of the workers is killed, they end by themselves."""
    with running(tmp_path, workers=2) as server:
        workers = children(server)
        server.kill()
        wait_for(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), what="the workers' end")


def children(server: Server) -> list[int]:
    """Process ids of the workers."""
    listed = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    return [int(child) for child in listed]


def test_keys_are_asked_for_and_followed_on_the_network(tmp_path: Path, store: Registry, keyring: Keyring) -> None:
    """A server with keys refuses strangers, and takes a key that is added while it runs; no key is in what it says."""
    with running(tmp_path, api_keys=keyring.path, log_level="debug", log_format="json") as server:
        assert server.client.post(PREDICT, content=IMAGE).status_code == 401
        known = server.client.post(PREDICT, content=IMAGE, headers=keyring.headers("predict"))
        assert known.status_code == 200
        new, line = make_key("new", ["predict"])
        with keyring.path.open("a") as file:
            file.write(line + "\n")
        headers = {"X-API-Key": new}
        wait_for(lambda: server.client.post(PREDICT, content=IMAGE, headers=headers).status_code == 200)
        said = server.output
        server.stop()
    for key in (new, *keyring.keys.values()):
        assert key not in said + server.log
    assert all(json.loads(entry)["message"] for entry in server.log.splitlines())
    assert "YOUR_KEY" in said
    assert f"Keys   needed; they are in {keyring.path} (FOVEA_API_KEYS)" in said
