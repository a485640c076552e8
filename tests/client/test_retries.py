"""When a call is made again, when not, and what it ends with; by both clients, against real sockets."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from app.client import Busy, NotAllowed, Problem, Retries, TimedOut, Unreachable
from app.client.exchange import Reply, retry_after
from tests.client.conftest import Connect
from tests.client.scripted import Answer, predicted, refused, scripted

QUICK = Retries(attempts=4, first=0.01, longest=0.02)


def test_server_says_when_to_come_back(connect: Connect) -> None:
    """A request that was turned away is made again, not before the time that Retry-After says."""
    with scripted(refused(429, "overloaded", Retry_After="1"), predicted()) as server:
        assert connect(server.url, retries=QUICK)(lambda client: client.predict(b"x")).label == "cat"
        first, second = server.asked
    assert second.at - first.at >= 1
    assert first.body == second.body == b"x"


def test_no_longer_wait_than_the_time_for_the_call(connect: Connect) -> None:
    """Where the server asks for more time than there is, its refusal is raised at once."""
    with scripted(refused(429, "overloaded", Retry_After="1000")) as server:
        with pytest.raises(Busy) as caught:
            connect(server.url)(lambda client: client.predict(b"x"))
        assert len(server.asked) == 1
    assert (caught.value.status, caught.value.code, caught.value.id) == (429, "overloaded", "abc")
    assert str(caught.value) == caught.value.detail == "Not so."


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_attempts_are_bounded(connect: Connect, status: int) -> None:
    """A server that goes on refusing is asked as often as was said, and then its last word is raised."""
    with scripted(refused(status, "not_ready")) as server:
        with pytest.raises(Busy):
            connect(server.url, retries=QUICK)(lambda client: client.predict(b"x"))
        assert len(server.asked) == 4


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 500, 507])
def test_what_will_not_change_is_not_asked_again(connect: Connect, status: int) -> None:
    """Errors that are not of the moment are raised at once."""
    with scripted(refused(status, "some_code")) as server:
        with pytest.raises(Problem) as caught:
            connect(server.url, retries=QUICK)(lambda client: client.predict(b"x"))
        assert len(server.asked) == 1
    assert (caught.value.status, caught.value.code) == (status, "some_code")


def test_server_that_is_not_up_yet_is_waited_for(connect: Connect) -> None:
    """Connections that are refused are tried again."""
    patient = Retries(attempts=1000, first=0.02, longest=0.02)
    with scripted(predicted(), delay=0.3) as server:
        assert connect(server.url, retries=patient)(lambda client: client.predict(b"x")).label == "cat"
        assert len(server.asked) == 1


def test_connection_that_breaks_is_made_again_where_that_does_no_harm(connect: Connect) -> None:
    """A prediction is asked for again; a training job, which may have been queued, is not queued twice."""
    with scripted(None, predicted()) as server:
        assert connect(server.url, retries=QUICK)(lambda client: client.predict(b"x")).label == "cat"
        assert len(server.asked) == 2
    with scripted(None) as server:
        with pytest.raises(Unreachable, match=f"No Fovea server answers at {server.url}"):
            connect(server.url, retries=QUICK)(lambda client: client.jobs.submit("digits"))
        assert len(server.asked) == 1
    with scripted(refused(503, "not_ready", Retry_After="0")) as server:
        with pytest.raises(Busy):
            connect(server.url, retries=QUICK)(lambda client: client.models.rollback("cifar10"))
        assert len(server.asked) == 1


def test_nobody_there_is_told(connect: Connect) -> None:
    """The error names the address, and can be sent between processes."""
    with scripted(predicted()) as server:
        url = server.url
    with pytest.raises(Unreachable) as caught:
        connect(url, retries=QUICK)(lambda client: client.predict(b"x"))
    assert url in str(caught.value)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_server_is_told_how_long_it_has(connect: Connect) -> None:
    """Each attempt at a prediction says what is left of the time, so that the server does not work in vain."""
    with scripted(refused(503, "not_ready"), predicted()) as server:
        client = connect(server.url, timeout=20, retries=QUICK)
        client(lambda client: client.predict(b"x"))
        client(lambda client: client.predict(b"x", timeout=3))
        first, second, third = (int(asked.headers["fovea-timeout-ms"]) for asked in server.asked)
    assert 20_000 >= first > second > 3000 >= third > 0


def test_key_is_sent_and_its_refusal_told(connect: Connect) -> None:
    """The key goes with every request; an error is as the server words it."""
    with scripted(refused(403, "forbidden")) as server:
        with pytest.raises(NotAllowed) as caught:
            connect(server.url, key="secret")(lambda client: client.models.list())
        assert server.asked[0].headers["authorization"] == "Bearer secret"
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy), copy.code, str(copy)) == (NotAllowed, "forbidden", "Not so.")
    assert "secret" not in repr(caught.value)


def test_key_that_no_header_can_hold_is_refused(connect: Connect) -> None:
    """A key with the end of its line is told as such, without showing it."""
    for key in ("secret\n", "sécret", "two words"):
        with pytest.raises(ValueError, match="The key has characters") as caught:
            connect("http://127.0.0.1:8000", key=key)
        assert key.strip() not in str(caught.value)


def test_wrong_fields_are_listed(connect: Connect) -> None:
    """A validation error has each field that is wrong."""
    wrong = [{"loc": ["epochs"], "msg": "too many"}]
    document = {"title": "No", "status": 422, "detail": "No.", "code": "validation_failed", "errors": wrong}
    with scripted(Answer(422, document)) as server, pytest.raises(Problem) as caught:
        connect(server.url)(lambda client: client.jobs.submit("digits", epochs=10**9))
    assert caught.value.errors == ({"loc": ["epochs"], "msg": "too many"},)


@pytest.mark.parametrize(
    "answer",
    [Answer(200, b"<html>"), Answer(200, {"hello": 1}), Answer(301, b""), Answer(404, b"<html>"), Answer(400, [])],
)
def test_another_service_at_the_address_is_told(connect: Connect, answer: Answer) -> None:
    """What is no Fovea server's answer is an error that says so, and no other."""
    with scripted(answer) as server:
        client = connect(server.url, retries=QUICK)
        for action in (lambda client: client.predict(b"x"), lambda client: client.models.list()):
            with pytest.raises(Problem, match="is it a Fovea server") as caught:
                client(action)
            assert (caught.value.status, caught.value.code) == (answer.status, "unexpected_answer")


def test_address_that_is_none_is_refused(connect: Connect) -> None:
    """Before anything is sent."""
    for address in ("127.0.0.1:8000", "ftp://host", "http://", ""):
        with pytest.raises(ValueError, match="is not an address like"):
            connect(address)


@pytest.mark.parametrize("end", ["", "/", "/api/v1", "/api/v1/"])
def test_address_of_the_api_is_that_of_the_server(connect: Connect, end: str) -> None:
    """Whoever copies it from an example of the API finds the same server."""
    with scripted(predicted()) as server:
        connect(server.url + end)(lambda client: client.predict(b"x"))
        assert server.asked[0].path.startswith("/api/v1/predict?")
    with pytest.raises(ValueError, match="leave out what follows the path"):
        connect(f"{server.url}/?model=cifar10")


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_call_without_any_time_is_a_mistake(connect: Connect, timeout: float) -> None:
    """And not a server that is busy; nothing is sent."""
    with scripted(predicted()) as server:
        with pytest.raises(ValueError, match=r"is not allowed\. Allowed: seconds, more than 0"):
            connect(server.url)(lambda client: client.predict(b"x", timeout=timeout))
        assert server.asked == []


def test_what_took_too_long_is_told_from_what_is_busy(connect: Connect) -> None:
    """Both are Busy, since both may go well later."""
    with scripted(refused(504, "deadline_exceeded")) as server, pytest.raises(TimedOut) as caught:
        connect(server.url, retries=Retries(attempts=1))(lambda client: client.predict(b"x"))
    assert isinstance(caught.value, Busy)
    assert caught.value.code == "deadline_exceeded"


@pytest.mark.parametrize(
    ("text", "least", "most"), [("7", 7, 7), ("", 0, 0), ("soon", 0, 0), ("-1", 0, 0), ("²", 0, 0)]
)
def test_retry_after_in_seconds(text: str, least: float, most: float) -> None:
    """Whole seconds; what cannot be read asks for nothing."""
    assert least <= retry_after(Reply(429, {"retry-after": text}, b"")) <= most


def test_retry_after_as_a_date() -> None:
    """A date is so many seconds from now; one that has passed asks for nothing."""
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 30 < retry_after(Reply(429, {"retry-after": later}, b"")) <= 100
    assert retry_after(Reply(429, {"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, b"")) == 0


def test_pauses_grow_to_a_bound_and_differ() -> None:
    """Each pause is up to twice the one before, and some of it is chance; what the server asks for is the least."""
    retries = Retries(first=0.1, longest=1.0)
    for attempt, longest in ((1, 0.1), (2, 0.2), (3, 0.4), (5, 1.0), (5000, 1.0)):
        pauses = [retries.pause(attempt, 0.0) for _ in range(50)]
        assert all(longest / 2 <= pause <= longest for pause in pauses)
        assert len(set(pauses)) > 1
        assert all(3 <= retries.pause(attempt, 3.0) <= 3 + longest / 2 for _ in range(50))
