"""A small real HTTP server that answers as it is told, for what a well server does not do."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any

PREDICTED = {
    "model": "cifar10",
    "version": 1,
    "id": "1",
    "predictions": [
        {
            "name": "image",
            "label": "cat",
            "probability": 0.9,
            "top": [{"label": "cat", "class_index": 3, "probability": 0.9}],
        }
    ],
}


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    at: float
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    status: int = 200
    document: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: str = "application/json"

    @property
    def body(self) -> bytes:
        return self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()


def predicted() -> Answer:
    """A prediction."""
    return Answer(document=PREDICTED)


def refused(status: int, code: str, **headers: str) -> Answer:
    """A problem document; of the headers' names `_` stands for `-`."""
    document = {"type": f"/docs/errors#{code}", "title": "No", "status": status, "detail": "Not so.", "code": code}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, {**document, "id": "abc"}, named, "application/problem+json")


Script = Callable[[int, Asked], Answer | None]
"""What to answer to a request, by its number, from 0; None: break the connection off."""


class Scripted(ThreadingHTTPServer):
    """Listens from `server_activate` on; before that, connections are refused."""

    daemon_threads = True

    def __init__(self, script: Script) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=False)
        self.script = script
        self.asked: list[Asked] = []
        self.lock = threading.Lock()
        self.server_bind()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def server_bind(self) -> None:
        """Without looking up the machine's name, which may take seconds."""
        TCPServer.server_bind(self)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are sent apart, and the second would wait for the first to be acknowledged.
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        assert isinstance(self.server, Scripted)
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        asked = Asked(time.monotonic(), self.command, self.path, headers, body)
        with self.server.lock:
            number = len(self.server.asked)
            self.server.asked.append(asked)
        answer = self.server.script(number, asked)
        if answer is None:
            self.close_connection = True
            return
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", answer.kind)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    do_POST = do_GET  # noqa: N815 - the base class looks for this name

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


@contextmanager
def scripted(*answers: Answer | None, script: Script | None = None, delay: float = 0.0) -> Iterator[Scripted]:
    """A server that gives these answers in order, the last one for ever; or what `script` says.

    For `delay` seconds connections to it are refused.
    """
    server = Scripted(script or (lambda number, _: answers[min(number, len(answers) - 1)]))

    def serve() -> None:
        if delay:
            time.sleep(delay)
            server.server_activate()
        server.serve_forever(poll_interval=0.02)

    if not delay:
        server.server_activate()
    runner = threading.Thread(target=serve)
    runner.start()
    try:
        yield server
    finally:
        server.shutdown()
        runner.join()
        server.server_close()
