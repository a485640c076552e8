"""The closed loop of large requests counts what was begun, and tells good answers from others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import large_requests
from benchmarks.wrk import Load

BODY = b"x" * 300_000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        time.sleep(0.3)
        if self.path == "/gone":
            self.close_connection = True
            return
        self.send_response(200 if body == BODY and self.path == "/good" else 503)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        self.wfile.write(b"y" * 100_000)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def port() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def load(port: int, path: str) -> Load:
    return large_requests.load(port, path, "text/plain", BODY, connections=3, seconds=0.05)


def test_what_is_under_way_at_the_end_is_waited_for_and_counted(port: int) -> None:
    """One answer for each connection, though none came before the time was over; the rate is by the last answer."""
    found = load(port, "/good")
    assert (found.requests, found.refused, found.failed) == (3, 0, 0)
    assert found.seconds >= 0.3
    assert found.rate == pytest.approx(3 / found.seconds)
    assert 0.3 <= found.p50 <= found.max <= found.seconds


def test_refusals_are_counted_apart(port: int) -> None:
    """They are answers, but no good ones."""
    found = load(port, "/elsewhere")
    assert (found.requests, found.refused, found.rate) == (3, 3, 0)


def test_connections_that_break_are_failures(port: int) -> None:
    """A server that goes away in the middle has not answered."""
    found = load(port, "/gone")
    assert (found.requests, found.failed, found.p99) == (0, 3, 0)
