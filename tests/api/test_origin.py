"""A service without keys, and web pages of other sites."""

from __future__ import annotations

import pytest

from tests.api.conftest import API, Keyring, Problem, StartAPI
from tests.serving.versions import gray

PROMOTE = "/api/v1/models/shapes/promote"


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1:8000"},
    ],
    ids=str,
)
async def test_pages_of_other_sites_change_nothing(api: API, problem: Problem, headers: dict[str, str]) -> None:
    """A request that a page of another site makes a browser send is refused before it does anything."""
    response = await api.client.post(PROMOTE, json={"version": 2}, headers=headers)
    problem(response, 403, "cross_site_request")
    log = await api.client.get("/api/v1/models/shapes/promotions")
    assert len(log.json()["promotions"]) == 1


async def test_clients_of_other_servers_are_refused_in_their_form(api: API) -> None:
    """Below their paths the refusal is the `error` that they look for, under the same status."""
    for path in ("/v1/models/shapes:predict", "/v2/models/shapes/infer"):
        response = await api.client.post(path, content=b"{}", headers={"Origin": "https://evil.example"})
        assert (response.status_code, set(response.json())) == (403, {"error"})
        response = await api.client.get(path, headers={"Host": "evil.example"})
        assert (response.status_code, set(response.json())) == (421, {"error"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1:8000"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
async def test_own_page_and_programs_pass(api: API, headers: dict[str, str]) -> None:
    """The docs page of the service itself, and programs that are no browsers, are let through."""
    assert (await api.client.post("/api/v1/predict", content=gray(0), headers=headers)).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "192.168.1.5", "", "localhost.evil.example", "["]
)
async def test_foreign_names_are_refused(api: API, problem: Problem, host: str) -> None:
    """A Host that is not this machine is refused, for reading too: it may be a foreign name that points here."""
    problem(await api.client.get("/api/v1/models", headers={"Host": host}), 421, "misdirected_request")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1", "[::1]:8000", "127.1.2.3:80"])
async def test_names_of_this_machine_pass(api: API, host: str) -> None:
    """Every way to name loopback is fine."""
    assert (await api.client.get("/api/v1/models", headers={"Host": host})).status_code == 200


async def test_with_keys_any_name_will_do(start: StartAPI, keyring: Keyring) -> None:
    """With keys neither is checked: a browser does not add a key, and a proxy may use any name."""
    api = await start(api_keys=keyring.path)
    headers = {**keyring.headers("predict"), "Host": "models.example", "Origin": "https://console.example"}
    assert (await api.client.post("/api/v1/predict", content=gray(0), headers=headers)).status_code == 200


async def test_no_other_site_may_read(api: API) -> None:
    """There is no CORS: preflight requests get no permission."""
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    for response in (
        await api.client.options("/api/v1/predict", headers=headers),
        await api.client.get("/api/v1/models", headers=headers),
    ):
        assert not [name for name in response.headers if name.startswith("access-control")]
