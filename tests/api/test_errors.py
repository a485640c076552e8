"""Problem documents."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest

from app import errors
from app.api.errors import KINDS, codes, kind_of, render
from tests.api.conftest import API, Problem
from tests.serving.versions import gray

JOBS = "/api/v1/training-jobs"


def all_errors(base: type[errors.FoveaError] = errors.FoveaError) -> set[type[errors.FoveaError]]:
    return {base}.union(*(all_errors(child) for child in base.__subclasses__()))


def test_every_error_of_the_domain_is_in_the_table() -> None:
    """Every public error has its own entry, an error status, and a code that no other has."""
    # The command line's own errors never come here; they are known only where its tests ran before.
    shown = [
        error for error in all_errors() if error.__module__.startswith("app.") and ".commands." not in error.__module__
    ]
    public = [error for error in shown if error.__name__[0] != "_"]
    own = [error for error in public if "code" in vars(error)]
    assert len({error.code for error in own}) == len(own)
    for error in own:
        assert error in KINDS, f"{error.__name__} is missing in the table of app/api/errors.py"
        assert 400 <= kind_of(error).status < 600


def test_documentation_explains_every_code() -> None:
    """docs/api.md has a row for each code with its status, title and meaning, and no other."""
    text = Path("docs/api.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (\d{3}) \| ([^|]+) \| (.+) \|$", text, re.MULTILINE)
    assert {code: (int(status), title, meaning) for code, status, title, meaning in rows} == {
        code: (status, title, " ".join(meaning.split())) for code, (status, title, meaning) in codes().items()
    }


async def test_page_of_errors_has_an_anchor_for_each(api: API) -> None:
    """The `type` of every problem leads to its explanation."""
    page = (await api.client.get("/docs/errors")).text
    for code in codes():
        assert f'id="{code}"' in page
    assert "`" not in page
    assert "<code>Allow</code>" in page


def test_meanings_say_more_than_titles() -> None:
    """No code is explained by its own title."""
    for code, (_, title, meaning) in codes().items():
        assert meaning.rstrip(".") != title, code


async def test_unknown_paths_are_problems(api: API, problem: Problem) -> None:
    """An unknown path is a 404 problem for every method, and does not repeat the path."""
    for method in ("GET", "POST", "DELETE", "BREW"):
        response = await api.client.request(method, "/secret-path")
        problem(response, 404, "not_found")
        assert "secret-path" not in response.text


async def test_wrong_methods_are_told_the_right_ones(api: API, problem: Problem) -> None:
    """A wrong method is a 405 problem with `Allow`."""
    for path, allowed in (("/api/v1/predict", "POST"), ("/api/v1/models", "GET"), ("/health/live", "GET, HEAD")):
        response = await api.client.delete(path)
        assert allowed in problem(response, 405, "method_not_allowed")["detail"]
        assert response.headers["allow"] == allowed


async def test_bugs_are_answered_without_a_stack_trace_and_logged_with_one(
    api: API, problem: Problem, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody expected is a 500 problem that says nothing of the inside; the log has it under the same id."""

    def fail() -> Any:
        raise ZeroDivisionError("inner secret")

    monkeypatch.setattr(api.services.registry, "models", fail)
    with caplog.at_level(logging.ERROR):
        response = await api.client.get("/api/v1/models")
    document = problem(response, 500, "error")
    assert "secret" not in response.text
    # The catalogue, which looks at the models by itself, may have tripped over the same and told of it.
    [record] = [record for record in caplog.records if record.name == "app.api.observation"]
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert record.__dict__["request_id"] == document["id"]


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3")])
def test_retry_after_is_in_whole_seconds_and_never_zero(seconds: float, header: str) -> None:
    """Retry-After is rounded up."""
    assert render(errors.Overloaded("Full.", retry_after=seconds), None).headers["retry-after"] == header
    for error in (errors.NotReady("Loading."), errors.DeadlineExceeded("Late.")):
        assert render(error, None, seconds).headers["retry-after"] == header


async def test_requests_that_come_too_early_are_counted(api: API, problem: Problem) -> None:
    """With the time that the look at them took, as those that are let in; and they hear when to come back."""
    await api.services.classifier.stop()
    response = await api.client.post("/api/v1/predict", content=gray(0))
    problem(response, 503, "not_ready")
    assert int(response.headers["retry-after"]) >= 1
    page = api.services.metrics.render().decode()
    assert 'fovea_rejected_total{reason="not_ready"} 1.0' in page
    assert 'fovea_stage_seconds_count{stage="admission"} 1.0' in page


@pytest.mark.parametrize(
    ("body", "location", "said"),
    [
        ({}, ["body", "dataset"], "required"),
        (
            {"dataset": "digits", "epochs": 0},
            ["body", "epochs"],
            "whole number, at least 1 and at most 10,000",
        ),
        ({"dataset": "digits", "epochs": "x"}, ["body", "epochs"], "must be a whole number"),
        ({"dataset": "digits", "epochs": "3"}, ["body", "epochs"], "{'ge': 1, 'le': 10000}"),
        ({"dataset": "digits", "nesterov": "yes"}, ["body", "nesterov"], "must be true or false"),
        ({"dataset": "../x"}, ["body", "dataset"], "'../x' is not a valid dataset name. Allowed: 1 to 63 characters"),
        ({"dataset": "digits", "model": "A b"}, ["body", "model"], "'A b' is not a valid model name. Allowed: 1 to"),
        ({"dataset": "digits", "epoch": 1}, ["body", "epoch"], "epochs"),
        ({"dataset": "digits", "splits": {"dev": 1}}, ["body", "splits", "dev"], "validation, test"),
        ({"dataset": "digits", "architecture": {"name": "vgg"}}, ["body", "architecture"], "'simple_cnn'"),
        (
            {"dataset": "digits", "architecture": {"name": "resnet_small", "depth": 3}},
            ["body", "architecture", "resnet_small", "depth"],
            "blocks",
        ),
        ({"dataset": "digits", "optimizer": "lion"}, ["body", "optimizer"], "'adamw'"),
    ],
    ids=str,
)
async def test_validation_says_where_why_and_what_is_allowed(
    api: API, problem: Problem, body: Any, location: list[str], said: str
) -> None:
    """Each wrong field is listed with its place, the reason and what is allowed."""
    document = problem(await api.client.post(JOBS, json=body), 422, "validation_failed")
    [found] = document["errors"]
    assert found["loc"] == location
    assert said in found["msg"] + repr(found.get("allowed"))
    assert ".".join(location) in document["detail"]


async def test_broken_json_is_said_to_be_so(api: API, problem: Problem) -> None:
    """With the place, and no field that nobody sent."""
    headers = {"Content-Type": "application/json"}
    response = await api.client.post(JOBS, content=b"{dataset: 1}", headers=headers)
    detail = problem(response, 422, "validation_failed")["detail"]
    assert detail.startswith("The body is not valid JSON: Expecting property name")
    assert detail.endswith("(at character 2)")


async def test_missing_parameter_is_shown_by_example(api: API, problem: Problem) -> None:
    """What a parameter that is needed looks like."""
    response = await api.client.post("/api/v1/datasets", content=b"x")
    assert problem(response, 422, "validation_failed")["detail"] == "name: required, for example ?name=flowers"


@pytest.mark.parametrize("depth", [10, 900, 5000, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"splits":', "}"), ("[", "")])
async def test_deeply_nested_json_is_refused(
    api: API, problem: Problem, depth: int, opening: str, closing: str
) -> None:
    """However deep a body is nested, it is refused as any other that is wrong, and the service goes on."""
    body = (opening * depth + (closing and "1") + closing * depth).encode()[: 2**20]
    response = await api.client.post(JOBS, content=body, headers={"Content-Type": "application/json"})
    code = "invalid_request" if response.status_code == 400 else "validation_failed"
    document = problem(response, 400 if code == "invalid_request" else 422, code)
    assert depth < 100_000 or "nested too deeply" in document["detail"]
    assert len(response.content) < 2000
    assert (await api.client.get(JOBS)).status_code == 200


async def test_json_that_is_no_utf8_is_said_to_be_so(api: API, problem: Problem) -> None:
    """The answer names what is wrong with the encoding of a body."""
    headers = {"Content-Type": "application/json"}
    response = await api.client.post(JOBS, content=b'{"dataset": "\xff"}', headers=headers)
    assert "UTF-8" in problem(response, 400, "invalid_request")["detail"]


async def test_what_was_sent_is_not_sent_back(api: API) -> None:
    """A refused body is not repeated, and a thousand wrong fields do not make a thousand-line detail."""
    body = {"dataset": "digits", **{f"field{number}": "canary-value" for number in range(1000)}}
    response = await api.client.post(JOBS, json=body)
    assert response.status_code == 422
    assert "canary-value" not in response.text
    assert len(response.json()["detail"]) < 2000


@pytest.mark.parametrize(
    ("content", "content_type", "status", "code"),
    [
        (b'{"dataset": ', "application/json", 422, "validation_failed"),
        (b"[" * 100_000, "application/json", 400, "invalid_request"),
        (b"\xff\xff", "application/json", 400, "invalid_request"),
        (b'{"dataset": "digits"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"dataset": "digits"}', "", 415, "unsupported_media_type"),
        (b" " * (2**20 + 1), "application/json", 413, "payload_too_large"),
        (b"", "application/json", 422, "validation_failed"),
    ],
    ids=lambda value: repr(value)[:30],
)
async def test_bodies_that_are_no_json_are_refused(
    api: API, problem: Problem, content: bytes, content_type: str, status: int, code: str
) -> None:
    """Broken, bottomless, foreign and huge JSON is refused, and not parsed where the type is another."""
    headers = {"Content-Type": content_type} if content_type else {}
    problem(await api.client.post(JOBS, content=content, headers=headers), status, code)


async def test_unknown_query_parameters_are_refused(api: API, problem: Problem) -> None:
    """A misspelt query parameter is refused everywhere, with those that exist."""
    assert "limit" in problem(await api.client.get(f"{JOBS}?limits=1"), 400, "invalid_request")["detail"]
    assert "None" in problem(await api.client.get("/api/v1/models?limit=1"), 400, "invalid_request")["detail"]


async def test_request_ids_are_the_clients_if_they_are_harmless(api: API) -> None:
    """A short plain X-Request-Id is taken over, so that one id follows a request; any other is replaced."""
    for offered, taken in (("trace-1.a_B", True), ("x" * 65, False), ("a b", False), ("a\u00e9", False), ("", False)):
        response = await api.client.get("/health/live", headers=[(b"X-Request-Id", offered.encode())])
        assert (response.headers["x-request-id"] == offered) == taken
        assert re.fullmatch(r"[A-Za-z0-9._-]{1,64}", response.headers["x-request-id"])
