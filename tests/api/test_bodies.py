"""Reading bodies: caps, deadlines, and multipart in any pieces."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers
from starlette.types import Message

from app.api.bodies import Limits, MultipartFiles, printable, read_body, replay, stream_body
from app.api.budget import Budget
from app.api.errors import ClientGone
from app.errors import InvalidRequest, Overloaded, PayloadTooLarge, RequestTimeout
from app.metrics import Metrics

LIMITS = Limits(size=100, seconds=5)
BOUNDARY = "frontier"
CONTENT_TYPE = f"multipart/form-data; boundary={BOUNDARY}"


class Connection:
    """Gives messages one by one, and counts them; then waits for ever."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.given = 0

    async def receive(self) -> Message:
        if not self.messages:
            await asyncio.Event().wait()
        self.given += 1
        return self.messages.pop(0)


def piece(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_body_in_pieces_is_put_together() -> None:
    """Pieces are joined in order, the empty ones included."""
    connection = Connection(piece(b"ab"), piece(b""), piece(b"c"), piece(b"", more=False))
    assert await read_body(connection.receive, Headers(), LIMITS) == b"abc"


async def test_declared_length_over_the_cap_is_refused_unread() -> None:
    """A Content-Length over the cap is refused before a byte is read."""
    connection = Connection(piece(b"x" * 10))
    with pytest.raises(PayloadTooLarge, match="100 bytes"):
        await read_body(connection.receive, Headers({"content-length": "101"}), LIMITS)
    assert connection.given == 0


@pytest.mark.parametrize("declared", [None, "5", "-1", "many"])
async def test_body_over_the_cap_is_refused_as_soon_as_it_is(declared: str | None) -> None:
    """Whatever the length said, reading stops with the piece that goes over."""
    headers = Headers({"content-length": declared} if declared else {})
    connection = Connection(*[piece(b"x" * 40) for _ in range(50)])
    with pytest.raises(PayloadTooLarge):
        await read_body(connection.receive, headers, LIMITS)
    assert connection.given == 3


async def test_body_at_the_cap_is_read() -> None:
    """The cap itself is allowed."""
    connection = Connection(piece(b"x" * 100, more=False))
    assert len(await read_body(connection.receive, Headers({"content-length": "100"}), LIMITS)) == 100


async def test_deadline_is_for_the_whole_body() -> None:
    """A client that keeps sending a little is cut off at the deadline all the same."""

    async def drip() -> Message:
        await asyncio.sleep(0.01)
        return piece(b"x")

    with pytest.raises(RequestTimeout, match=r"0\.05 s"):
        await read_body(drip, Headers(), Limits(size=10**6, seconds=0.05))


async def test_closed_connection_ends_the_reading() -> None:
    """A client that goes away in the middle leaves nobody to answer."""
    connection = Connection(piece(b"x"), {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await read_body(connection.receive, Headers(), LIMITS)


async def test_replay_gives_the_body_once_then_the_connection() -> None:
    """What reads the body again gets it whole, and after it whatever the connection says."""
    connection = Connection({"type": "http.disconnect"})
    receive = replay(b"abc", connection.receive)
    assert await read_body(receive, Headers(), LIMITS) == b"abc"
    assert (await receive())["type"] == "http.disconnect"


async def test_pieces_are_not_copied_together_while_streaming() -> None:
    """A stream gives each piece as it came."""
    connection = Connection(piece(b"ab"), piece(b"cd", more=False))
    assert [chunk async for chunk in stream_body(connection.receive, Headers(), LIMITS)] == [b"ab", b"cd"]


async def test_bodies_share_a_budget() -> None:
    """Bodies that are held take from one budget: what exceeds it is refused and counted; what ended gives back."""
    metrics = Metrics()
    budget = Budget(150, metrics, lambda: 2.5)
    with budget.hold() as take:
        await read_body(Connection(piece(b"x" * 100, more=False)).receive, Headers(), LIMITS, take)
        with pytest.raises(Overloaded, match=r"2\.5 s") as refused, budget.hold() as other:
            await read_body(Connection(piece(b"x" * 50), piece(b"x")).receive, Headers(), LIMITS, other)
        assert budget.used == 100
        assert refused.value.retry_after == 2.5
        assert b'fovea_rejected_total{reason="overloaded"} 1.0' in metrics.render()
    assert budget.used == 0


async def test_a_body_that_the_budget_will_never_have_room_for_is_not_asked_to_come_back() -> None:
    """It is too large, whatever else is under way."""
    budget = Budget(150, Metrics(), lambda: 2.5)
    with budget.hold() as take:
        take(100)
        with pytest.raises(PayloadTooLarge, match="would take 151 bytes of memory"):
            take(51)
    assert budget.used == 0


def encode(files: list[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, data in files:
        body += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="x"; filename="{name}"\r\n\r\n'.encode()
        body += data + b"\r\n"
    return body + f"--{BOUNDARY}--\r\n".encode()


# With the boundary's own beginnings in it, which a parser must not mistake for its end.
DATA = st.lists(
    st.one_of(st.binary(max_size=30), st.sampled_from([b"\r\n", b"--", b"\r\n--fron", b"\r\n-", b"frontier", b"\0"])),
    max_size=5,
).map(b"".join)


@given(
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,8}\.png", fullmatch=True), DATA), max_size=5),
    st.integers(min_value=1, max_value=200),
)
def test_multipart_is_the_same_in_pieces_of_any_size(files: list[tuple[str, bytes]], size: int) -> None:
    """Files come out as they went in, however the network cuts the body."""
    body = encode(files)
    parser = MultipartFiles(CONTENT_TYPE, max_files=10)
    for start in range(0, len(body), size):
        parser.feed(body[start : start + size])
    parser.finish()
    assert [(file.name, file.take()) for file in parser.files] == files


@given(st.binary(max_size=300), st.integers(min_value=0, max_value=200))
def test_any_bytes_end_in_files_or_a_refusal(noise: bytes, cut: int) -> None:
    """No body makes the parser fail in another way than by refusing it."""
    body = encode([("a.png", b"12345")])
    for data in (noise, body[:cut] + noise, body[:cut] + noise + body[cut:]):
        try:
            parser = MultipartFiles(CONTENT_TYPE, max_files=2)
            parser.feed(data)
            parser.finish()
        except (InvalidRequest, PayloadTooLarge):
            continue
        assert len(parser.files) <= 2


def test_body_that_is_cut_short_is_refused() -> None:
    """Without its closing boundary a body is not complete, and its last file may be cut."""
    body = encode([("a.png", b"12345")])
    parser = MultipartFiles(CONTENT_TYPE, max_files=2)
    parser.feed(body[:-8])
    with pytest.raises(InvalidRequest, match="cut short"):
        parser.finish()


@pytest.mark.parametrize(
    ("headers", "accepted"),
    [
        ('Content-Disposition: form-data; name="x"; filename="a.png"', True),
        ('Content-Disposition: form-data; name="x"\r\nContent-Type: image/png', True),
        ('Content-Disposition: form-data; name="x"\r\nContent-Type: application/octet-stream', True),
        ('Content-Disposition: form-data; name="x"', False),
        ('Content-Disposition: form-data; name="x"\r\nContent-Type: text/plain', False),
        ("X-Nothing: here", False),
    ],
)
def test_files_are_told_from_fields(headers: str, accepted: bool) -> None:
    """A part is a file by its name or its type; any other field is refused, with where options go."""
    parser = MultipartFiles(CONTENT_TYPE, max_files=2)
    body = f"--{BOUNDARY}\r\n{headers}\r\n\r\ndata\r\n--{BOUNDARY}--\r\n".encode()
    if accepted:
        parser.feed(body)
        assert [file.take() for file in parser.files] == [b"data"]
    else:
        with pytest.raises(InvalidRequest, match="query string"):
            parser.feed(body)


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('form-data; name="x"; filename="a.png"', "a.png"),
        ('form-data; name="x; filename=b"; filename="a;b c.png"', "a;b c.png"),
        ('form-data; name=""; filename=""', None),
        (r'form-data; name="x"; filename="a\"b.png"', 'a"b.png'),
        (r'form-data; name="x"; filename="C:\\pictures\\a.png"', "a.png"),
        ('form-data; filename="a.png"; name="x"', "a.png"),
        ("FORM-DATA;name=x;filename=a.png", "a.png"),
        ('form-data; name="x"; filename="a.png"; size=3', "a.png"),
        ('form-data; name="x"; filename="ä\u00ad.png"', "ä�.png"),
    ],
)
def test_a_file_has_the_name_that_its_part_says(disposition: str, name: str | None) -> None:
    """Written as nearly all clients do, which has a way of its own, or in any other way that is allowed."""
    parser = MultipartFiles(CONTENT_TYPE, max_files=2)
    headers = f"Content-Disposition: {disposition}\r\nContent-Type: image/png"
    parser.feed(f"--{BOUNDARY}\r\n{headers}\r\n\r\ndata\r\n--{BOUNDARY}--\r\n".encode())
    assert [file.name for file in parser.files] == [name]


def test_thousands_of_headers_are_refused() -> None:
    """A part's headers are bounded in number."""
    parser = MultipartFiles(CONTENT_TYPE, max_files=2)
    with pytest.raises(InvalidRequest):
        parser.feed(f"--{BOUNDARY}\r\n".encode() + b"A: b\r\n" * 1000 + b"\r\n")


@given(st.text(max_size=600))
def test_printable_is_printable_and_short(text: Any) -> None:
    """What is echoed has no control characters and is at most 255 characters long."""
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 255
    if text.isprintable() and len(text) <= 255:
        assert shown == text
