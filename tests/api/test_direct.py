"""Small predict requests that come in one piece are answered past tasks and messages, and never otherwise."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from app.api.connection import Connection
from app.api.direct import Direct
from app.preprocessing import Float32Array
from app.serving.runtimes.base import Batch
from app.serving.runtimes.fake import FakeRuntime
from app.store.registry import Registry
from tests.api.conftest import API, Keyring, StartAPI
from tests.api.wire import Wire
from tests.serving.eventually import eventually
from tests.serving.versions import UNKNOWN, add_version, gray, png

pytestmark = pytest.mark.anyio

WHITE = gray(255)
HOST = "Host: 127.0.0.1:8000"


@dataclass(frozen=True)
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: dict[str, str]
    document: dict[str, Any]


class Line:
    """A connection to an application, and what the application itself was asked."""

    def __init__(self, api: API) -> None:
        self.asked: list[str] = []
        """Paths of requests that went the ordinary way."""

        async def spy(scope: Scope, receive: Receive, send: Send) -> None:
            self.asked.append(scope["path"])
            await api.app(scope, receive, send)

        config = uvicorn.Config(spy, log_config=None, access_log=False, server_header=False)
        state = ServerState()
        state.default_headers = [(b"date", b"Sun, 22 Nov 2026 12:00:00 GMT")]
        self.connection = Connection(config, state, {}, direct=Direct(api.app))
        self.wire = Wire()
        self.connection.connection_made(self.wire)

    async def send(self, *pieces: bytes) -> Reply:
        """Send a request in pieces, and wait for its answer."""
        for piece in pieces:
            self.connection.data_received(piece)
            await asyncio.sleep(0)
        return await self.reply()

    def lose(self) -> None:
        """Have the client go."""
        self.wire.closed = self.wire.lost = True
        self.connection.connection_lost(None)

    async def reply(self) -> Reply:
        """Take the next answer off the wire."""
        await eventually(lambda: b"\r\n\r\n" in self.wire.written)
        head, _, body = self.wire.written.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        headers = {name: value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(headers["content-length"])
        await eventually(lambda: len(self.wire.written) >= len(head) + 4 + length)
        self.wire.written = self.wire.written[len(head) + 4 + length :]
        return Reply(int(status.split()[1]), headers, json.loads(body[:length] or b"{}"))


def request(image: bytes = WHITE, *lines: str, address: str = "/api/v1/predict", method: str = "POST") -> bytes:
    """A request with an image as its body; `lines`: headers after the host's."""
    head = [f"{method} {address} HTTP/1.1", HOST, f"Content-Length: {len(image)}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + image


Open = Callable[..., Awaitable[Line]]


def _garbage() -> list[object]:
    """What only the collector could free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [*gc.garbage]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()


@pytest.fixture
def open_line(start: StartAPI) -> Open:
    """Opens a connection to an application of its own."""

    async def open_line(**settings: Any) -> Line:
        return Line(await start(**settings))

    return open_line


# What goes this way


@pytest.mark.parametrize(
    ("address", "lines"),
    [
        ("/api/v1/predict", ()),
        ("/api/v1/predict", ("Content-Type: image/png", "User-Agent: curl/8")),
        ("/api/v1/predict", ("Content-Type: application/octet-stream",)),
        ("/api/v1/predict", ("Fovea-Timeout-Ms: 5000", "Origin: http://127.0.0.1:8000")),
        ("/api/v1/predict?top_k=1", ()),
        ("/api/v1/predict?model=shapes&version=1", ()),
    ],
    ids=str,
)
async def test_a_small_image_is_answered_as_on_the_ordinary_way(
    open_line: Open, address: str, lines: tuple[str, ...]
) -> None:
    """The same status, headers and document, the id apart; and the application is not asked."""
    line = await open_line()
    direct = await line.send(request(WHITE, *lines, address=address))
    assert line.asked == []
    head, _, body = request(WHITE, *lines, address=address).partition(b"\r\n\r\n")
    ordinary = await line.send(head + b"\r\n\r\n", body)
    assert line.asked == ["/api/v1/predict"]
    assert (direct.status, direct.document["predictions"][0]["label"]) == (200, "diagonal")
    assert direct.document.pop("id") == direct.headers.pop("x-request-id")
    assert ordinary.document.pop("id") == ordinary.headers.pop("x-request-id")
    assert direct == ordinary


async def test_what_a_version_does_not_know_is_said_on_both_ways(open_line: Open, registry: Registry) -> None:
    """A version with a threshold says so for each image, in the same words."""
    registry.promote("shapes", add_version(registry, **UNKNOWN), by="test")
    line = await open_line()
    sent = request(gray(128))
    direct = await line.send(sent)
    assert line.asked == []
    ordinary = await line.send(sent[:-1], sent[-1:])
    assert line.asked == ["/api/v1/predict"]
    assert direct.document["predictions"] == ordinary.document["predictions"]
    assert direct.document["predictions"][0]["unknown"] is True


@pytest.mark.parametrize("image", [b"text", WHITE[:-30], b"\x89PNG\r\n\x1a\n" + b"\0" * 50], ids=["text", "cut", "png"])
async def test_a_bad_image_is_answered_as_on_the_ordinary_way(open_line: Open, image: bytes) -> None:
    """With the same problem document."""
    line = await open_line()
    direct = await line.send(request(image))
    assert line.asked == []
    ordinary = await line.send(request(image)[:-1], image[-1:])
    assert line.asked == ["/api/v1/predict"]
    assert direct.status in (415, 422)
    for reply in (direct, ordinary):
        assert reply.document.pop("id") == reply.headers.pop("x-request-id")
    assert direct == ordinary


async def test_a_connection_is_used_again(open_line: Open) -> None:
    """By requests of both ways in turn, and by some that were sent together; each is answered in its turn."""
    line = await open_line()
    for shade, label in ((0, "horizontal"), (128, "vertical"), (255, "diagonal")):
        reply = await line.send(request(gray(shade)))
        assert reply.document["predictions"][0]["label"] == label
        assert (await line.send(request(b"", address="/health/live", method="GET"))).status == 200
    reply = await line.send(request(gray(0)) + request(gray(128)) + request(gray(255)))
    labels = [each.document["predictions"][0]["label"] for each in (reply, await line.reply(), await line.reply())]
    assert labels == ["horizontal", "vertical", "diagonal"]
    assert not line.wire.closed


async def test_with_keys_only_who_may_predict_is_answered(open_line: Open, keyring: Keyring) -> None:
    """The key is asked for as on the ordinary way."""
    line = await open_line(api_keys=keyring.path)
    assert (await line.send(request())).status == 401
    assert (await line.send(request(WHITE, "X-API-Key: wrong"))).status == 401
    assert (await line.send(request(WHITE, f"X-API-Key: {keyring.keys['train']}"))).status == 403
    assert len(line.asked) == 3
    assert (await line.send(request(WHITE, f"Authorization: Bearer {keyring.keys['predict']}"))).status == 200
    assert len(line.asked) == 3


async def test_what_was_answered_is_counted_and_logged(start: StartAPI, caplog: pytest.LogCaptureFixture) -> None:
    """In the same metrics, under the same names, and with the id that the client gave."""
    api = await start()
    line = Line(api)
    with caplog.at_level(logging.INFO, "fovea.access"):
        reply = await line.send(request(WHITE, "X-Request-Id: mine.1"))
        await line.send(request(b"text"))
    assert line.asked == []
    assert reply.document["id"] == "mine.1"
    logged = [(r.__dict__["request_id"], r.__dict__["route"], r.__dict__["status"]) for r in caplog.records]
    assert logged[0] == ("mine.1", "/api/v1/predict", 200)
    assert logged[1][1:] == ("/api/v1/predict", 415)
    page = api.services.metrics.render().decode()
    for status in ("200", "415"):
        assert f'fovea_requests_total{{method="POST",route="/api/v1/predict",status="{status}"}} 1.0' in page
    assert "fovea_images_in_flight 0.0" in page
    for stage in ("admission", "read", "decode", "queue", "inference", "render"):
        count = 1 if stage in ("decode", "queue", "inference") else 2
        assert f'fovea_stage_seconds_count{{stage="{stage}"}} {count}.0' in page, stage


async def test_a_full_queue_turns_away_at_once(start: StartAPI) -> None:
    """With 429 and the time in which there will be room, as on the ordinary way; afterwards there is."""
    api = await start(max_queue=2, max_batch=1)
    lines = [Line(api) for _ in range(3)]
    for line in lines:
        line.connection.data_received(request())
    replies = [await line.reply() for line in lines]
    assert [reply.status for reply in replies] == [200, 200, 429]
    assert (replies[2].document["code"], replies[2].headers["retry-after"]) == ("overloaded", "1")
    assert replies[2].document["id"] == replies[2].headers["x-request-id"]
    assert (await lines[2].send(request())).status == 200
    assert [line.asked for line in lines] == [[]] * 3
    page = api.services.metrics.render().decode()
    assert 'fovea_rejected_total{reason="overloaded"} 1.0' in page
    assert 'fovea_requests_total{method="POST",route="/api/v1/predict",status="429"} 1.0' in page


async def test_a_request_leaves_nothing_to_the_garbage_collector(open_line: Open) -> None:
    """At thousands of requests a second it would be at work all the time."""
    line = await open_line()
    await line.send(request())
    gc.collect()
    gc.disable()
    try:
        for image in (WHITE, gray(0)) * 20:
            await line.send(request(image))
        await line.send(request(b"", address="/health/live", method="GET"))  # so that the last of them is let go
        assert not [each for each in _garbage() if type(each).__name__ in ("Visit", "Lone", "Exchange", "DirectCycle")]
    finally:
        gc.enable()
    assert line.asked == ["/health/live"]


async def test_a_large_body_is_turned_away_by_its_head(start: StartAPI) -> None:
    """Where there is no room for it; what comes of it is dropped, and the connection goes on."""
    api = await start(max_queue=1, max_batch=1)
    large = request(png(np.random.default_rng(1).integers(0, 256, (200, 200, 1), np.uint8)))
    first, line = Line(api), Line(api)
    first.connection.data_received(request())
    for begin in range(0, len(large), 10_000):
        line.connection.data_received(large[begin : begin + 10_000])
    reply = await line.reply()
    assert (reply.status, reply.document["code"]) == (429, "overloaded")
    assert "connection" not in reply.headers
    assert line.asked == []
    assert (await first.reply()).status == 200
    assert (await line.send(large)).status == 200
    assert (await line.send(request())).status == 200
    assert line.asked == ["/api/v1/predict"]
    assert 'fovea_rejected_total{reason="overloaded"} 1.0' in api.services.metrics.render().decode()


# What does not


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(WHITE, "Expect: 100-continue"), 200),
        (request(WHITE, "Content-Type: image/png", "Content-Type: text/plain"), 415),
        (request(WHITE, "Content-Type: text/plain"), 415),
        (request(WHITE, "Content-Type: multipart/form-data; boundary=x"), 400),
        (request(b""), 400),
        (request(WHITE, "Connection: close"), 200),
        (request(WHITE, "Fovea-Timeout-Ms: soon"), 400),
        (request(WHITE, "Origin: https://evil.example"), 403),
        (request().replace(HOST.encode(), b"Host: evil.example"), 421),
        (request(address="/api/v1/predict?top=1"), 400),
        (request(address="/api/v1/predict?top_k=%31"), 200),
        (request(address="/api/v1/predict?model=nothing"), 404),
        (request(address="/api/v1/predict?version=9"), 404),
        (request(address="/api/v1/predict/"), 404),
        (request(method="PUT"), 405),
        (request(png(np.random.default_rng(1).integers(0, 256, (100, 100, 1), np.uint8))), 200),
    ],
    ids=lambda value: value[:60].decode("latin-1") if isinstance(value, bytes) else None,
)
async def test_what_is_not_plainly_in_order_goes_the_ordinary_way(open_line: Open, sent: bytes, status: int) -> None:
    """Where what is wrong with it is said, if anything is."""
    line = await open_line()
    if b"Expect" in sent:
        line.connection.data_received(sent)
        await eventually(lambda: line.wire.written.startswith(b"HTTP/1.1 100 Continue\r\n\r\n"))
        line.wire.written = line.wire.written.partition(b"\r\n\r\n")[2]
        reply = await line.reply()
    else:
        reply = await line.send(sent)
    assert reply.status == status, reply
    assert len(line.asked) == 1


async def test_a_request_may_come_in_any_pieces(open_line: Open) -> None:
    """Cut anywhere, it is answered all the same."""
    line = await open_line()
    whole = request(WHITE, "Content-Type: image/png")
    for cut in range(1, len(whole)):
        reply = await line.send(whole[:cut], whole[cut:])
        assert reply.document["predictions"][0]["label"] == "diagonal", cut
    assert (await line.send(*(whole[i : i + 1] for i in range(len(whole))))).status == 200


async def test_a_chunked_body_goes_the_ordinary_way(open_line: Open) -> None:
    """Also if all of it came at once."""
    line = await open_line()
    head = f"POST /api/v1/predict HTTP/1.1\r\n{HOST}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    reply = await line.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(WHITE), WHITE))
    assert (reply.status, line.asked) == (200, ["/api/v1/predict"])


async def test_what_is_no_http_is_refused(open_line: Open) -> None:
    """As it would be without this way."""
    line = await open_line()
    line.connection.data_received(request().replace(b"Content-Length: ", b"Content-Length: x"))
    await asyncio.sleep(0)
    assert line.wire.written.startswith(b"HTTP/1.1 400")
    assert line.wire.closed
    assert line.asked == []


@pytest.mark.parametrize("pieces", [1, 2])
async def test_an_origin_that_is_no_address_is_of_another_site(open_line: Open, pieces: int) -> None:
    """On both ways; and the connection goes on."""
    line = await open_line()
    sent = request(WHITE, "Origin: http://[")
    reply = await line.send(*((sent,) if pieces == 1 else (sent[:-5], sent[-5:])))
    assert (reply.status, reply.document["code"]) == (403, "cross_site_request")
    assert (await line.send(request())).status == 200


async def test_a_fault_before_a_request_is_taken_in_is_the_ordinary_ways(
    open_line: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client is not told that it was its own, and the connection goes on."""
    line = await open_line()
    with monkeypatch.context() as patch:
        patch.setattr("app.api.direct.parse_deadline", lambda *_: 1 / 0)
        assert (await line.send(request())).status == 200
    assert line.asked == ["/api/v1/predict"]
    assert "before a request was taken in" in caplog.text
    assert (await line.send(request())).status == 200
    assert len(line.asked) == 1
    line.lose()
    assert line.connection not in line.connection.connections


async def test_traced_requests_go_the_ordinary_way(open_line: Open) -> None:
    """Where their spans are made."""
    line = await open_line(tracing="otlp")
    assert (await line.send(request())).status == 200
    assert line.asked == ["/api/v1/predict"]


# While they wait


class Slow(FakeRuntime):
    """Takes 40 ms for a batch, once its version is checked and timed: that is answered at once."""

    calls = 0

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        self.calls += 1
        if self.calls > 5:
            time.sleep(0.04)
        return super().predict(batch)


async def test_who_waits_beyond_the_deadline_is_told_so(start: StartAPI) -> None:
    """And the picture is not classified; the place is free again."""
    api = await start(load_runtime=Slow, max_batch=1)
    first, late = Line(api), Line(api)
    first.connection.data_received(request())
    late.connection.data_received(request(WHITE, "Fovea-Timeout-Ms: 20"))
    assert (await first.reply()).status == 200
    reply = await late.reply()
    assert (reply.status, reply.document["code"]) == (504, "deadline_exceeded")
    assert (first.asked, late.asked) == ([], [])
    page = api.services.metrics.render().decode()
    assert 'fovea_rejected_total{reason="deadline_exceeded"} 1.0' in page
    assert "fovea_images_in_flight 0.0" in page
    assert 'fovea_stage_seconds_count{stage="inference"} 1.0' in page


async def test_a_picture_that_is_larger_than_it_looked_is_answered(start: StartAPI) -> None:
    """By a lane, and at its deadline at the latest."""
    wide = png(np.full((400, 400, 1), 255, np.uint8))  # a few hundred bytes
    line = Line(await start())
    assert (await line.send(request(wide))).document["predictions"][0]["label"] == "diagonal"
    slow = Line(await start(load_runtime=Slow))
    reply = await slow.send(request(wide, "Fovea-Timeout-Ms: 10"))
    assert reply.status == 504
    assert line.asked == slow.asked == []


async def test_a_client_that_has_gone_frees_its_place(start: StartAPI) -> None:
    """Its picture is not classified."""
    api = await start(max_queue=1)
    gone, next_one = Line(api), Line(api)
    gone.connection.data_received(request())
    gone.lose()
    assert (await next_one.send(request())).status == 200
    assert next_one.asked == []
    assert gone.wire.written == b""
    page = api.services.metrics.render().decode()
    assert 'fovea_requests_total{method="POST",route="/api/v1/predict",status="499"} 1.0' in page
    assert 'fovea_rejected_total{reason="client_gone"} 1.0' in page
    assert 'fovea_stage_seconds_count{stage="inference"} 1.0' in page


@pytest.mark.parametrize("more", [request(b"", address="/health/live", method="GET"), b"no HTTP at all\r\n\r\n"])
async def test_who_sends_more_and_goes_does_others_no_harm(start: StartAPI, more: bytes) -> None:
    """Whatever came behind a request that waits, it is given up with its connection, and those of others are
    answered."""
    api = await start(max_batch=1, max_queue=20)
    gone, others = [Line(api) for _ in range(6)], [Line(api) for _ in range(6)]
    for leaving, staying in zip(gone, others, strict=True):
        leaving.connection.data_received(request() + more)
        staying.connection.data_received(request())
    for leaving in gone:
        leaving.lose()
    assert [(await line.reply()).status for line in others] == [200] * 6
    assert [(await line.send(request())).status for line in others] == [200] * 6
    page = api.services.metrics.render().decode()
    assert "fovea_images_in_flight 0.0" in page
    assert 'fovea_rejected_total{reason="client_gone"} 6.0' in page
    assert 'fovea_stage_seconds_count{stage="inference"} 12.0' in page
    assert not any(line.connection.connections for line in gone)


async def test_an_answer_that_cannot_be_sent_does_others_no_harm(
    start: StartAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever went wrong with it; the slice goes on."""
    api = await start()
    broken, others = Line(api), [Line(api) for _ in range(3)]
    monkeypatch.setattr(broken.wire, "write", lambda _: 1 / 0)
    for line in (broken, *others):
        line.connection.data_received(request())
    assert [(await line.reply()).status for line in others] == [200] * 3
    assert "could not be handed over" in caplog.text


async def test_no_timer_of_idle_connections_runs_beside_a_request(start: StartAPI) -> None:
    """Also if the one before was answered in the same piece of data."""
    api = await start(max_queue=1, max_batch=1)
    first, line = Line(api), Line(api)
    first.connection.data_received(request())
    line.connection.data_received(request() + request(address="/api/v1/predict?top_k=%31"))
    assert line.connection.timeout_keep_alive_task is None
    assert (await line.reply()).status == 429
    assert (await line.reply()).status == 200


async def test_what_is_in_flight_at_the_end_is_answered(start: StartAPI) -> None:
    """With the word that the connection closes; one that idles is closed at once."""
    api = await start()
    busy, idle = Line(api), Line(api)
    await idle.send(request())
    busy.connection.data_received(request())
    for line in (busy, idle):
        line.connection.shutdown()
    assert (busy.wire.closed, idle.wire.closed) == (False, True)
    reply = await busy.reply()
    assert (reply.status, reply.headers["connection"]) == (200, "close")
    assert busy.wire.closed


async def test_a_service_that_stops_fails_what_waits(start: StartAPI) -> None:
    """With 503, as on the ordinary way."""
    api = await start(load_runtime=Slow, max_batch=1)
    lines = [Line(api) for _ in range(4)]
    for line in lines:
        line.connection.data_received(request())
    await api.services.classifier.stop()
    replies = [await line.reply() for line in lines]
    assert (replies[3].status, replies[3].document["code"]) == (503, "not_ready")
    assert {reply.status for reply in replies} <= {200, 503}
    assert [line.asked for line in lines] == [[]] * 4


async def test_a_fault_of_ours_is_an_internal_error(
    start: StartAPI, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without a stack trace in the answer; others are answered."""
    line = Line(await start())
    with monkeypatch.context() as patch:
        patch.setattr("app.api.predict.render_answer", lambda *_: 1 / 0)
        reply = await line.send(request())
    assert (reply.status, reply.document["code"]) == (500, "error")
    assert reply.document["id"] in {record.__dict__.get("request_id") for record in caplog.records}
    assert (await line.send(request())).status == 200
    assert line.asked == []
