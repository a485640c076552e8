"""What both shells tell httpx, and what they make of its errors."""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import httpx

from app.client.exchange import Lost, Reply, Send, Upload

_CHUNK = 2**20
_CONNECT_SECONDS = 5.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# The errors with which no byte of the request has left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def address_of(server: str) -> httpx.URL:
    """The address of a server; that of its API, with /api/v1 at the end, is taken for it.

    Raises:
        ValueError: it is none.
    """
    try:
        address = httpx.URL(server.rstrip("/").removesuffix("/api/v1").rstrip("/"))
    except httpx.InvalidURL:
        address = httpx.URL("")
    if address.scheme not in ("http", "https") or not address.host:
        raise ValueError(f"{server!r} is not an address like http://127.0.0.1:8000.")
    if address.query or address.fragment:
        raise ValueError(f"{server!r} has more than an address: leave out what follows the path.")
    return address


def client_options(address: httpx.URL, key: str | None) -> dict[str, Any]:
    """What an httpx client is made with.

    Raises:
        ValueError: no header can hold the key.
    """
    if key is not None and not (key.isascii() and key.isprintable() and " " not in key):
        raise ValueError("The key has characters that no key has; was it read from a file with the end of its line?")
    loopback = address.host in _LOOPBACK
    return {
        "base_url": f"{address}/api/v1/",
        "headers": {"Authorization": f"Bearer {key}"} if key else {},
        # A proxy of the environment cannot reach this machine's own addresses.
        "trust_env": not loopback,
        # To load the certificates takes 70 ms, and here there is no TLS to need them, nor a proxy.
        "verify": not (loopback and address.scheme == "http"),
    }


def request_options(send: Send) -> dict[str, Any]:
    """What httpx is told of a request, but for the pieces of an upload."""
    request = send.request
    options: dict[str, Any] = {
        "params": dict(request.params),
        "headers": {**request.headers, **send.headers},
        "timeout": timeout(send.seconds),
    }
    if request.json is not None:
        options["json"] = request.json
    if request.body is not None:
        options["content"] = request.body
    if request.images is not None:
        # By number: what the files are called is nobody's business but the caller's.
        options["files"] = [
            ("file", (str(number), data, "application/octet-stream")) for number, data in enumerate(request.images)
        ]
    if request.upload is not None:
        options["headers"]["Content-Length"] = str(request.upload.path.stat().st_size)
    return options


def timeout(seconds: float | None) -> httpx.Timeout:
    """Time for an attempt; to connect takes no longer than it must, so that there is time for another."""
    return httpx.Timeout(seconds, connect=_CONNECT_SECONDS if seconds is None else min(_CONNECT_SECONDS, seconds))


def pieces(upload: Upload) -> Generator[bytes, None, None]:
    """The pieces of an upload, from its begin."""
    with upload.path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        done = 0
        while chunk := file.read(_CHUNK):
            yield chunk
            done += len(chunk)
            upload.sent(done, size)


def reply_of(response: httpx.Response) -> Reply:
    """An answer that was read to its end."""
    return Reply(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.content
    )


def lost(address: httpx.URL, error: httpx.TransportError) -> Lost:
    """What an error of the network means."""
    why = str(error) or type(error).__name__
    return Lost(str(address), why, arrived=not isinstance(error, _NOT_SENT))
