"""API keys: who may call what, on every route."""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
import re
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from app.api.application import Application
from app.api.guarded import GuardedRoute
from app.api.protocols.routing import ProtocolRoute
from app.api.routes import PlainRoute, requires
from app.api.security import Keys, make_key, parse_keys
from app.errors import ConfigurationError, InvalidName
from app.settings import Settings
from tests.api.conftest import API, Keyring, Problem, StartAPI
from tests.serving.versions import gray

DIGEST = "a" * 64

# All that anybody may see: probes, metrics, and what the service can do.
PUBLIC = {
    "/",
    "/docs",
    "/docs/start.js",
    "/docs/openapi.json",
    "/docs/errors",
    "/favicon.ico",
    "/docs/assets/{file}",
    "/openapi.json",
    "/health/live",
    "/health/ready",
    "/health/startup",
    "/metrics",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/{model}/ready",
    "/v2/models/{model}/versions/{version}/ready",
    "/ping",
}


def routes(app: Application) -> list[tuple[str, str, frozenset[str] | None]]:
    """Every (method, template, scopes) of the application."""
    found: list[tuple[str, str, frozenset[str] | None]] = []
    for route in app.routes:
        assert isinstance(route, (GuardedRoute, PlainRoute)), f"{route!r} is not guarded"
        found += [(method, route.path, route.scopes) for method in route.methods or ()]
    return found


def concrete(template: str) -> str:
    """An address that matches a template."""
    names = {
        "model": "shapes",
        "version": "1",
        "label": "production",
        "file": "report.json",
        "name": "digits",
        "job_id": "none",
    }
    return re.sub(r"{(\w+)}", lambda match: names[match[1]], template)


def refused(app: Application, path: str, response: httpx.Response, problem: Problem, status: int, code: str) -> str:
    """What an error says: that of our own routes is a problem document, that of another server's protocol its own."""
    if not any(isinstance(route, ProtocolRoute) and route.path == path for route in app.routes):
        return str(problem(response, status, code)["detail"])
    assert (response.status_code, response.headers["content-type"]) == (status, "application/json"), path
    [text] = response.json().values()
    assert isinstance(text, str)
    return text


async def test_every_route_but_the_public_ones_refuses_strangers(
    start: StartAPI, keyring: Keyring, problem: Problem
) -> None:
    """Without a key, or with an unknown one, every route and method answers 401 and says how to send one."""
    api = await start(api_keys=keyring.path)
    guarded = [(method, path) for method, path, scopes in routes(api.app) if scopes is not None]
    assert len(guarded) >= 15
    for method, path in guarded:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"X-API-Key": "wrong"}, {"Authorization": "Basic eDp5"}):
            response = await api.client.request(method, concrete(path), headers=headers, content=b"x")
            assert response.status_code == 401, (method, path)
            if method != "HEAD":
                assert "API key" in refused(api.app, path, response, problem, 401, "unauthorized")
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_every_route_refuses_keys_of_another_scope(start: StartAPI, keyring: Keyring, problem: Problem) -> None:
    """With a key of the wrong scope every route answers 403 and names the scopes that are needed."""
    api = await start(api_keys=keyring.path)
    for method, path, scopes in routes(api.app):
        if scopes is None:
            continue
        for name in {"predict", "train"} - scopes:
            response = await api.client.request(method, concrete(path), headers=keyring.headers(name), content=b"x")
            assert response.status_code == 403, (method, path)
            if method != "HEAD":
                detail = refused(api.app, path, response, problem, 403, "forbidden")
                assert name in detail
                assert "admin" in detail


async def test_admin_keys_pass_everywhere(start: StartAPI, keyring: Keyring) -> None:
    """A key with the scope `admin` is let through by every route."""
    api = await start(api_keys=keyring.path)
    for method, path, scopes in routes(api.app):
        # The stream of events has no end; that of a job that does not exist is never begun.
        response = await api.client.request(method, concrete(path), headers=keyring.headers("admin"))
        assert response.status_code not in (401, 403), (method, path, scopes)


async def test_what_is_public_is_listed(api: API) -> None:
    """No route is public but those that are listed here, which change nothing and hold no secret."""
    public = [(method, path) for method, path, scopes in routes(api.app) if scopes is None]
    assert {path for _, path in public} == PUBLIC
    assert {method for method, _ in public} == {"GET", "HEAD"}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/predict/",
        "//api/v1/predict",
        "/api/v1//predict",
        "/API/v1/predict",
        "/api/v1/%70redict",
        "/api/v1/models/../predict",
        "/api/v1/predict;x",
        "/api/v1/models/shapes/promote/",
        "/api/v1/models/shapes%2Fpromote",
    ],
)
async def test_no_alias_of_a_route_gets_around_the_keys(start: StartAPI, keyring: Keyring, path: str) -> None:
    """Other spellings of a guarded address lead to the guarded route or nowhere."""
    api = await start(api_keys=keyring.path)
    response = await api.client.post(httpx.URL("http://127.0.0.1").copy_with(raw_path=path.encode()), content=gray(0))
    assert response.status_code in (401, 404, 405)


def test_undeclared_endpoints_cannot_be_registered() -> None:
    """Forgetting to say who may use an endpoint is an error when it is registered, not an open door."""

    async def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="does not declare"):
        GuardedRoute("/x", forgotten)
    with pytest.raises(RuntimeError, match="does not declare"):
        PlainRoute("/x", forgotten)
    assert GuardedRoute("/x", requires("admin")(forgotten)).scopes == frozenset(["admin"])


async def test_key_is_accepted_in_either_header(start: StartAPI, keyring: Keyring) -> None:
    """A key may stand in `Authorization: Bearer` or in `X-API-Key`."""
    api = await start(api_keys=keyring.path)
    key = keyring.keys["predict"]
    for headers in ({"Authorization": f"Bearer {key}"}, {"authorization": f"bearer  {key}"}, {"X-API-Key": key}):
        response = await api.client.post("/api/v1/predict", content=gray(0), headers=headers)
        assert response.status_code == 200


async def test_no_byte_of_the_body_is_read_before_the_key_is_checked(start: StartAPI, keyring: Keyring) -> None:
    """A stranger's body is not read, wherever it is sent."""
    api = await start(api_keys=keyring.path)
    read: list[str] = []

    async def receive() -> dict[str, Any]:
        read.append("read")
        return {"type": "http.request", "body": b"{}", "more_body": False}

    for path in ("/api/v1/predict", "/api/v1/datasets", "/api/v1/training-jobs", "/api/v1/models/shapes/promote"):
        before: list[int] = []

        async def send(message: Any, before: list[int] = before) -> None:
            if message["type"] == "http.response.start":
                before.append(len(read))
                assert message["status"] == 401

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "query_string": b"",
            "headers": [(b"content-type", b"application/json"), (b"content-length", b"2")],
        }
        await api.app(scope, receive, send)
        assert before == [0]
        read.clear()


async def test_promoting_by_training_needs_admin(start: StartAPI, keyring: Keyring, problem: Problem) -> None:
    """A key for training may not change what is served: neither directly nor by a job's promotion policy."""
    api = await start(api_keys=keyring.path)
    for promotion, status in (("manual", 202), ("always", 403), ("if_better", 403)):
        body = {"dataset": "shapes", "promotion": promotion}
        response = await api.client.post("/api/v1/training-jobs", json=body, headers=keyring.headers("train"))
        assert response.status_code == status
    assert "'manual'" in problem(response, 403, "forbidden")["detail"]
    admitted = await api.client.post("/api/v1/training-jobs", json=body, headers=keyring.headers("admin"))
    assert admitted.status_code == 202


async def test_promotion_log_names_the_key(start: StartAPI, keyring: Keyring) -> None:
    """Who promoted a version stands in the log under the name of the key."""
    api = await start(api_keys=keyring.path)
    promoted = await api.client.post(
        "/api/v1/models/shapes/promote", json={"version": 2}, headers=keyring.headers("admin")
    )
    assert promoted.json()["by"] == "admin"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no key"),
        ("# only a comment\n", "no key"),
        (f"ci {DIGEST}", "Line 1 .*three fields"),
        (f"ci {DIGEST} predict extra", "Line 1 .*three fields"),
        (f"ok {DIGEST} predict\nci secret-by-mistake predict", "Line 2 .*64 lower-case"),
        (f"ci {DIGEST.upper()} predict", "64 lower-case"),
        (f"ci {DIGEST} predict,root", "predict, train, admin"),
        (f"ci {DIGEST} ,", "predict, train, admin"),
        (f"C/I {DIGEST} predict", "not a valid name"),
        (f"ci {DIGEST} predict\nci {DIGEST} admin", "Line 2 .*twice"),
    ],
)
def test_wrong_lines_are_named_without_their_content(text: str, said: str) -> None:
    """A file of keys that is wrong is refused by line number; what stands there, perhaps a key, is not repeated."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        parse_keys(text)
    assert "secret-by-mistake" not in str(caught.value)


def test_lines_hold_name_digest_and_scopes() -> None:
    """A line is a name, a digest and scopes; comments and blank lines do not count."""
    [first, second] = parse_keys(f"# keys\n\nci {DIGEST} predict,train # build\nme {'b' * 64} admin\n")
    assert (first.name, first.digest, sorted(first.scopes)) == ("ci", DIGEST, ["predict", "train"])
    assert sorted(second.scopes) == ["admin"]


def test_made_keys_are_random_and_their_line_is_their_digest() -> None:
    """`make_key` gives a key that no other has, and the line that admits it without telling it."""
    (key, line), (other, _) = make_key("ci", ["predict", "train"]), make_key("ci", ["predict"])
    assert key != other
    assert len(key) >= 40
    assert line == f"ci {hashlib.sha256(key.encode()).hexdigest()} predict,train"
    with pytest.raises(InvalidName):
        make_key("c i", ["predict"])
    with pytest.raises(ConfigurationError):
        make_key("ci", ["root"])


def test_digests_are_compared_in_constant_time(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every digest in the file is compared by `hmac.compare_digest`, whichever one matches."""
    compared: list[str] = []

    def compare(left: str, right: str) -> bool:
        compared.append(right)
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    keys = Keys(keyring.path)
    monkeypatch.setattr("app.api.security.hmac.compare_digest", compare)
    for name in keyring.keys:
        found = keys.find(keyring.keys[name])
        assert found is not None
        assert found.name == name
        assert len(compared) == len(keyring.keys)
        compared.clear()
    assert keys.find("x" * 10_000) is None


def test_changed_file_is_read_again(keyring: Keyring) -> None:
    """A key that is taken out of the file no longer passes, and a new one does."""
    keys = Keys(keyring.path)
    new, line = make_key("new", ["predict"])
    replace(keyring.path, line)
    keys.reload()
    assert keys.find(new) is not None
    assert keys.find(keyring.keys["admin"]) is None


@pytest.mark.parametrize("broken", ["nonsense", "", None])
def test_broken_file_keeps_the_old_keys_and_says_so_once(
    keyring: Keyring, broken: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """When the file becomes wrong, empty or goes away, the keys there were go on working and one error is logged."""
    keys = Keys(keyring.path)
    if broken is None:
        keyring.path.unlink()
    else:
        replace(keyring.path, broken)
    with caplog.at_level(logging.ERROR):
        keys.reload()
        keys.reload()
    assert keys.find(keyring.keys["admin"]) is not None
    assert len(caplog.records) == 1
    new, line = make_key("new", ["predict"])
    replace(keyring.path, line)
    keys.reload()
    assert keys.find(new) is not None


def replace(path: Path, text: str) -> None:
    """Replace a file as an editor does; with a time that certainly differs."""
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    os.utime(temporary, ns=(time.time_ns(), time.time_ns() + 10**9))
    temporary.replace(path)


def test_service_does_not_start_with_keys_that_it_cannot_read(tmp_path: Path) -> None:
    """A file of keys that is missing or wrong stops the start: nobody is let in by mistake."""
    with pytest.raises(ConfigurationError, match=r"FOVEA_API_KEYS=.*none: the file cannot be read"):
        Keys(tmp_path / "none")


def test_open_address_without_keys_is_refused_with_the_way_out() -> None:
    """Listening beyond loopback without keys is refused, and the message names the three ways out."""
    with pytest.raises(ConfigurationError, match=r"FOVEA_API_KEYS.*FOVEA_HOST=127\.0\.0\.1.*FOVEA_ALLOW_ANONYMOUS"):
        Settings(host="0.0.0.0").check()
    Settings(host="0.0.0.0", allow_anonymous=True).check()
    Settings(host="::1").check()


async def test_keys_occur_nowhere_in_what_the_service_says(
    start: StartAPI, keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    """No key, known or not, stands in any answer, log line or metric."""
    canary = "canary-5f0e1d9c"
    api = await start(api_keys=keyring.path)
    said = []
    with caplog.at_level(logging.DEBUG):
        for key in (canary, keyring.keys["predict"], keyring.keys["admin"] + canary):
            for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}, {"Authorization": key}):
                for method, path in (
                    ("POST", "/api/v1/predict"),
                    ("POST", "/api/v1/models/shapes/promote"),
                    ("GET", "/api/v1/models"),
                    ("GET", "/nowhere"),
                    ("PUT", "/metrics"),
                ):
                    response = await api.client.request(method, path, headers=headers, content=b"x")
                    said.append(response.text + repr(response.headers))
    said.append((await api.client.get("/metrics")).text)
    said += [record.getMessage() + repr(vars(record)) for record in caplog.records]
    for text in said:
        assert canary not in text
        assert keyring.keys["predict"] not in text


def test_routes_of_the_walk_are_the_routes_of_starlette() -> None:
    """The walk above sees plain routes and FastAPI's alike, since both are Starlette's."""
    assert issubclass(PlainRoute, Route)
    assert issubclass(GuardedRoute, Route)
