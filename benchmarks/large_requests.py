"""Closed loop of a few large requests, of which each is waited for: what has begun when the time is over still counts.

wrk drops what is under way at the end. Of requests that take half a second each that is a sixth of all work in a load
of a few seconds, done by the server and counted nowhere.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from benchmarks.wrk import Load

_TIMEOUT_SECONDS = 20
_PIECE = 1 << 16
_FIRST_GOOD, _FIRST_BAD = 200, 400


def load(port: int, path: str, media_type: str, body: bytes, *, connections: int, seconds: float) -> Load:
    """Post a body again and again on so many connections; no request begins after so long."""
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media_type}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    began = time.perf_counter()
    with ThreadPoolExecutor(connections) as clients:
        found = [*clients.map(lambda _: _client(port, request, began + seconds), range(connections))]
    took = time.perf_counter() - began
    answers = [answer for answers, _, _ in found for answer in answers]
    times = sorted(answered for _, answered in answers)
    return Load(
        requests=len(answers),
        seconds=took,
        p50=_percentile(times, 0.50),
        p90=_percentile(times, 0.90),
        p99=_percentile(times, 0.99),
        max=_percentile(times, 1),
        refused=sum(not _FIRST_GOOD <= status < _FIRST_BAD for status, _ in answers),
        failed=sum(failed for _, failed, _ in found),
        cpu_seconds=sum(cpu for _, _, cpu in found),
    )


def _client(port: int, request: bytes, end: float) -> tuple[list[tuple[int, float]], int, float]:
    """Ask until the end: status and seconds of each answer; 1 if the connection broke; seconds of processor time."""
    cpu = time.thread_time()
    answers = []
    failed = 0
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=_TIMEOUT_SECONDS) as connection:
            while (began := time.perf_counter()) < end:
                connection.sendall(request)
                status = _answer(connection)
                answers.append((status, time.perf_counter() - began))
    except (OSError, ValueError):
        failed = 1
    return answers, failed, time.thread_time() - cpu


def _answer(connection: socket.socket) -> int:
    """Read an answer that tells its length, to its end; returns the status. Raises ValueError if it is cut short."""
    got = b""
    while (at := got.find(b"\r\n\r\n")) < 0:
        got += _some(connection)
    head = got[:at].lower()
    _, found, length = head.partition(b"\r\ncontent-length:")
    if not found:
        raise ValueError("an answer without its length")
    left = int(length.split(b"\r\n", 1)[0]) - (len(got) - at - 4)
    while left > 0:
        left -= len(_some(connection))
    return int(head.split(b" ", 2)[1])


def _some(connection: socket.socket) -> bytes:
    piece = connection.recv(_PIECE)
    if not piece:
        raise ValueError("the connection ended within an answer")
    return piece


def _percentile(times: Sequence[float], part: float) -> float:
    """Of times in order; 0 if there are none."""
    return times[min(len(times) - 1, int(part * len(times)))] if times else 0.0
