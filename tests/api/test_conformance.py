"""The OpenAPI document is true: whatever is sent to any of its operations is answered as it says, and never by a fault.

Requests are made from the document by schemathesis: what it allows, what it does not, and beside those some that are
known to be good, so that answers are seen which no chance would find.
"""

from __future__ import annotations

import base64
import io
import re
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from schemathesis.checks import not_a_server_error
from schemathesis.config import SchemathesisConfig
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from app.store.registry import Registry
from tests.server import Server, running
from tests.serving.versions import SIZE, add_version, gray

EXAMPLES = 4
"""Of each kind for each operation."""
SEED = 5
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]

IMAGE = gray(200)
ENCODED = {"b64": base64.b64encode(IMAGE).decode()}
TENSOR = [[[200]] * SIZE] * SIZE
V2_BYTES = {"name": "image_bytes", "datatype": "BYTES", "shape": [1], "data": [ENCODED["b64"]]}
V2_TENSOR = {"name": "image", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 1], "data": [TENSOR]}
CLASSES = {"name": "probabilities", "parameters": {"classification": 2}}
NOWHERE = (404, ["application/problem+json"])
"""Status and media types of an answer where there is no operation."""


def dataset() -> bytes:
    """An archive of two classes, ten pictures each."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for level in range(0, 200, 10):
            archive.writestr(f"{'dark' if level < 100 else 'light'}/{level}.png", gray(level))
    return buffer.getvalue()


GOOD: dict[str, list[tuple[dict[str, str], Any]]] = {
    ":predict": [({}, {"instances": [ENCODED, TENSOR]}), ({}, {"inputs": {"image_bytes": [ENCODED]}})],
    ":classify": [({}, {"examples": [{"image_bytes": ENCODED}]})],
    "/infer": [
        ({}, {"inputs": [V2_BYTES]}),
        ({}, {"id": "a", "inputs": [V2_TENSOR], "outputs": [CLASSES]}),
        ({}, {"inputs": [V2_BYTES], "parameters": {"binary_data_output": True}}),
    ],
    "/invocations": [({}, IMAGE), ({}, {"instances": [ENCODED, TENSOR]})],
    "/invoke": [({}, IMAGE), ({}, {"instances": [ENCODED, TENSOR]})],
    "/vertex/predict": [({}, {"instances": [ENCODED], "parameters": {"maxPredictions": 2}})],
    "/api/v1/predict": [({}, IMAGE), ({"top_k": "0"}, IMAGE)],
    "/api/v1/datasets": [({"name": "others"}, dataset())],
    "/api/v1/training-jobs": [({}, {"dataset": "shades"})],
    "/promote": [({}, {"version": 2})],
}
"""Queries and bodies that are good, by the end of the path."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with all that the operations can name; nobody trains there."""
    folder = tmp_path_factory.mktemp("server")
    registry = Registry(folder / "store")
    add_version(registry, promote=True)
    add_version(registry)
    with running(folder) as server:
        yield server


@pytest.fixture(scope="module")
def known(server: Server) -> dict[str, Any]:
    """Values of the places in paths that name something which is there."""
    server.client.post("/api/v1/datasets?name=shades", content=dataset()).raise_for_status()
    job = server.client.post("/api/v1/training-jobs", json={"dataset": "shades"}).json()["id"]
    # Cancelled, so that its events come to an end.
    server.client.post(f"/api/v1/training-jobs/{job}/cancel").raise_for_status()
    return {"model": "shapes", "version": 1, "label": "stable", "name": "shades", "job_id": job}


def places_of(operation: Any, known: dict[str, Any]) -> dict[str, Any]:
    """Known values of the places in an operation's path."""
    return {name: value for name, value in known.items() if f"{{{name}}}" in operation.path}


def strategies(operation: Any, known: dict[str, Any]) -> Iterator[tuple[str, SearchStrategy[Any]]]:
    """Kinds of requests for an operation, and a strategy of each."""
    mode = schemathesis.GenerationMode
    yield "allowed", operation.as_strategy(mode.POSITIVE)
    if places := places_of(operation, known):
        yield "of what is there", operation.as_strategy(mode.POSITIVE, path_parameters=places)
    if operation.body or any(operation.iter_parameters()):
        yield "not allowed", operation.as_strategy(mode.NEGATIVE)


def good(operation: Any, known: dict[str, Any]) -> Iterator[Any]:
    """The good requests for an operation."""
    for end, bodies in GOOD.items() if operation.method == "post" else ():
        for query, body in bodies if operation.path.endswith(end) else ():
            kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
            yield operation.Case(path_parameters=places_of(operation, known), query=query, body=body, media_type=kind)


def is_elsewhere(operation: Any, url: str) -> bool:
    """Whether an address is none of the operation's: a place of its path holds a slash, or of a protocol's a colon."""
    place = "[^/]+" if operation.path.startswith("/api") else "[^/:]+"
    template = re.sub(r"\\{[a-z_]+\\}", place, re.escape(operation.path))
    return re.fullmatch(template, unquote(urlsplit(url).path)) is None


class Examiner:
    """Sends requests, and remembers what of their answers is not as documented."""

    def __init__(self, server: Server, session: requests.Session) -> None:
        self.found: list[str] = []
        self._server = server
        self._session = session

    def ask(self, case: Any, kind: str) -> int:
        """Send one; returns the status of the answer."""
        response = case.call(base_url=self._server.url, session=self._session, timeout=20)
        nowhere = (response.status_code, response.headers.get("content-type")) == NOWHERE
        if not (nowhere and is_elsewhere(case.operation, response.request.url)):
            try:
                case.validate_response(response, checks=CHECKS)
            except FailureGroup as group:
                # Not the errors themselves: they hold on to what they are about.
                for failure in group.exceptions:
                    self.note(case, kind, str(failure))
        status: int = response.status_code
        return status

    def note(self, case: Any, kind: str, what: str) -> None:
        """Remember something."""
        self.found.append(f"{case.operation.label}, {kind}: {what}\n{case.as_curl_command()}")


def test_every_operation_answers_as_documented(server: Server, known: dict[str, Any]) -> None:
    """No status, media type, header or body that the document does not have, and no 5xx; what is good is taken."""
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json", config=SchemathesisConfig(seed=SEED))
    with requests.Session() as session:
        examiner = Examiner(server, session)
        for result in schema.get_all_operations():
            assert isinstance(result, Ok), result
            operation = result.ok()
            for kind, strategy in strategies(operation, known):
                each(strategy, partial(examiner.ask, kind=kind))
            for case in good(operation, known):
                if not 200 <= (status := examiner.ask(case, "good")) < 300:
                    examiner.note(case, "good", f"refused with {status}")
    assert not examiner.found, "\n\n".join(examiner.found)


def each(strategy: SearchStrategy[Any], ask: Callable[[Any], object]) -> None:
    """Ask with up to `EXAMPLES` requests, always the same ones."""

    @seed(SEED)
    @settings(
        max_examples=EXAMPLES,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[*HealthCheck],
    )
    @given(strategy)
    def asked(case: Any) -> None:
        ask(case)

    asked()
