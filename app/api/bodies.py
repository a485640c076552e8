"""Reading request bodies: with a cap that holds before anything is buffered, and a deadline.

The server under us has no time limit of its own, so a client that sends a byte a minute
would hold its connection for ever; and it would buffer whatever it is sent.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Message, Receive

from app.api.errors import ClientGone, UnsupportedMediaType
from app.errors import InvalidRequest, PayloadTooLarge, RequestTimeout

# Types in which one image or archive is the whole body. The last is what `curl --data-binary`
# says unless told otherwise; the bytes decide what it is, not the header.
RAW_TYPES = ("application/octet-stream", "application/x-www-form-urlencoded")

_PART_HEADERS = 16
_PART_HEADER_BYTES = 4096
_LONGEST_NAME = 255

# What nearly all clients write, so plain that it means what it says. The rest is for the parser, at ten times the time.
_PLAIN_DISPOSITION = re.compile(rb'form-data; name="([^"\\]*)"; filename="([^"\\]*)"')


@dataclass(frozen=True)
class Limits:
    """What a body may cost."""

    size: int
    """Most bytes."""
    seconds: float
    """Most seconds from the first look at the body to its end."""


@dataclass
class File:
    """One file of a body: the name that the client gave it, if any, and its bytes in pieces."""

    name: str | None
    chunks: list[bytes] = field(default_factory=list)

    def take(self) -> bytes:
        """The bytes that came since the last call."""
        data = self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)
        self.chunks.clear()
        return data


def media_type(headers: Mapping[str, str]) -> str:
    """The Content-Type without its parameters, in lower case; empty when there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


async def stream_body(
    receive: Receive, headers: Mapping[str, str], limits: Limits, take: Callable[[int], None] | None = None
) -> AsyncGenerator[bytes, None]:
    """Pieces of the body, none of them empty. `take` is told of each one's size, and may refuse it.

    Raises:
        PayloadTooLarge: at once by Content-Length, or as soon as the bytes go over.
        RequestTimeout: not all of it came in time.
        ClientGone: the connection closed before the end.
    """
    _check_declared(headers, limits.size)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.seconds
    received = 0
    more = True
    while more:
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            raise RequestTimeout(
                f"The body was not complete after {limits.seconds:g} s; {received} bytes of it had come."
            ) from None
        chunk = _chunk(message, limits.size - received, limits.size, take)
        received += len(chunk)
        more = message.get("more_body", False)
        if chunk:
            yield chunk


async def read_body(
    receive: Receive, headers: Mapping[str, str], limits: Limits, take: Callable[[int], None] | None = None
) -> bytes:
    """The whole body; arguments and errors as of `stream_body`."""
    try:
        async with asyncio.timeout(limits.seconds):
            return await gather_body(receive, headers, limits.size, take)
    except TimeoutError:
        raise RequestTimeout(f"The body was not complete after {limits.seconds:g} s.") from None


async def gather_body(
    receive: Receive, headers: Mapping[str, str], size: int, take: Callable[[int], None] | None = None
) -> bytes:
    """The whole body of at most `size` bytes, however long it takes; otherwise as `read_body`."""
    _check_declared(headers, size)
    pieces: list[bytes] = []
    received = 0
    while True:
        message = await receive()
        chunk = _chunk(message, size - received, size, take)
        received += len(chunk)
        if chunk:
            pieces.append(chunk)
        if not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the body that was read already, then goes on with the connection's own messages."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


class MultipartFiles:
    """The files of a multipart/form-data body, parsed piece by piece; `files` grows as they come.

    Any field name will do. A part is a file if it has a file name, or a media type that files have.
    """

    def __init__(self, content_type: str, *, max_files: int) -> None:
        """Raises InvalidRequest when the Content-Type has no usable boundary."""
        self.files: list[File] = []
        self._max_files = max_files
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._part_type = ""
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if not boundary:
            raise InvalidRequest("The multipart Content-Type has no boundary. HTTP libraries add it when they encode.")
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_end": self._on_end,
                },
                max_header_count=_PART_HEADERS,
                max_header_size=_PART_HEADER_BYTES,
            )
        except FormParserError:
            raise InvalidRequest("The boundary of the multipart body is not valid.") from None
        self._ended = False

    def feed(self, chunk: bytes) -> None:
        """Parse a piece of the body.

        Raises:
            InvalidRequest: the body is no multipart/form-data, or has a field that is no file.
            PayloadTooLarge: more files than allowed.
        """
        try:
            self._parser.write(chunk)
        except FormParserError:
            raise InvalidRequest("The body is not valid multipart/form-data.") from None

    def finish(self) -> None:
        """Say that the body is complete. Raises InvalidRequest when it was cut short."""
        if not self._ended:
            raise InvalidRequest("The multipart body is cut short: its closing boundary is missing.")

    def _on_part_begin(self) -> None:
        self._disposition = b""
        self._part_type = ""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        name = bytes(self._header).lower()
        if name == b"content-disposition":
            self._disposition = bytes(self._value)
        elif name == b"content-type":
            self._part_type = self._value.decode("latin-1").partition(";")[0].strip().lower()
        self._header.clear()
        self._value.clear()

    def _on_headers_finished(self) -> None:
        if plain := _PLAIN_DISPOSITION.fullmatch(self._disposition):
            options = {b"name": plain[1], b"filename": plain[2]}
        else:
            _, options = parse_options_header(self._disposition)
        name = options.get(b"filename")
        if name is None and not (self._part_type.startswith("image/") or self._part_type in RAW_TYPES):
            label = printable(options.get(b"name", b"").decode("utf-8", "replace"))
            raise InvalidRequest(
                f"The form field {label!r} is not a file. Send files only; options go into the query string."
            )
        if len(self.files) >= self._max_files:
            raise PayloadTooLarge(f"More files than the {self._max_files} that are allowed in one request.")
        self.files.append(File(None if not name else printable(name.decode("utf-8", "replace"))))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.files[-1].chunks.append(data[start:end])

    def _on_end(self) -> None:
        self._ended = True


async def stream_file(
    receive: Receive,
    headers: Mapping[str, str],
    limits: Limits,
    sink: Callable[[bytes], Awaitable[None]],
    *,
    raw_types: tuple[str, ...],
) -> str | None:
    """Hand the one file of a body to `sink`, piece by piece, whether it is the body
    itself or the only part of a multipart one.

    Returns:
        The name that the client gave the file, if any.

    Raises:
        InvalidRequest: no file, or more than one; PayloadTooLarge, RequestTimeout, ClientGone as `stream_body`.
        UnsupportedMediaType: naming what is allowed.
    """
    kind = media_type(headers)
    if kind == "multipart/form-data":
        parser = MultipartFiles(headers["content-type"], max_files=1)
        async for chunk in stream_body(receive, headers, limits):
            parser.feed(chunk)
            if parser.files and parser.files[0].chunks:
                await sink(parser.files[0].take())
        parser.finish()
        if not parser.files:
            raise InvalidRequest("The multipart body has no file in it.")
        return parser.files[0].name
    if kind not in ("", *RAW_TYPES, *raw_types):
        raise UnsupportedMediaType(
            f"Content-Type {printable(kind)!r} is not accepted here. Allowed: {', '.join(raw_types)}, "
            "application/octet-stream, or multipart/form-data with one file."
        )
    async for chunk in stream_body(receive, headers, limits):
        await sink(chunk)
    return None


def printable(text: str) -> str:
    """`text` without control characters and lone surrogates, cut to a bearable length: fit to be echoed."""
    if len(text) <= _LONGEST_NAME and text.isprintable():
        return text
    cleaned = "".join(character if character.isprintable() else "�" for character in text[: _LONGEST_NAME + 1])
    return cleaned if len(cleaned) <= _LONGEST_NAME else cleaned[: _LONGEST_NAME - 1] + "…"


def _too_large(size: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The body is larger than the {size} bytes that are allowed here.")


def _check_declared(headers: Mapping[str, str], size: int) -> None:
    declared = headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > size:
        raise _too_large(size)


def _chunk(message: Message, left: int, size: int, take: Callable[[int], None] | None) -> bytes:
    """The piece that a message brings of a body of at most `size` bytes, of which `left` may still come."""
    if message["type"] == "http.disconnect":
        raise ClientGone
    chunk: bytes = message.get("body", b"")
    if len(chunk) > left:
        raise _too_large(size)
    if chunk and take is not None:
        take(len(chunk))
    return chunk
