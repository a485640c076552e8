"""Models, versions and promotions over the API."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from app.serving.candidates import Candidate
from app.serving.engine_choice import EngineChoice
from app.serving.runtimes import fake
from app.serving.runtimes.loading import load_fake
from app.store.registry import Registry
from tests.api.conftest import API, Problem, StartAPI
from tests.serving.versions import LABELS, SIZE, add_version, gray, manifest, png
from tests.store.versions import decision

MODEL = "/api/v1/models/shapes"
REPORT = {"accuracy": 0.75, "classes": {"vertical": {"precision": 1.0}}}
PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


@pytest.fixture
def evaluated(registry: Registry) -> int:
    """A version of `shapes` with an evaluation."""
    arrays = np.random.default_rng(1).integers(0, 256, (2, SIZE, SIZE, 1), np.uint8)
    with registry.staging() as folder:
        (folder / "golden").mkdir()
        (folder / "evaluation" / "mistakes").mkdir(parents=True)
        for index, array in enumerate(arrays):
            (folder / "golden" / f"{index}.png").write_bytes(png(array))
        np.savez(
            folder / "golden" / "expected.npz", images=arrays, probabilities=fake.probabilities(arrays, len(LABELS))
        )
        (folder / "evaluation" / "report.json").write_text(json.dumps(REPORT))
        (folder / "evaluation" / "report.html").write_text("<!doctype html><title>shapes</title>")
        (folder / "evaluation" / "confusion_matrix.svg").write_bytes(PICTURE)
        (folder / "evaluation" / "weights.bin").write_bytes(b"\0\1")
        (folder / "evaluation" / "mistakes" / "0 a#.png").write_bytes(png(arrays[0]))
        return registry.register(folder, manifest(metrics={"accuracy": 0.75}))


async def test_list_says_what_there_is_and_what_answers(api: API, registry: Registry) -> None:
    """Every model is listed with its versions, the one in production, the one that answers, and its state."""
    add_version(registry, "waiting")
    response = await api.client.get("/api/v1/models")
    shapes, waiting = response.json()["models"]
    assert shapes == {
        "name": "shapes",
        "versions": [1, 2],
        "production": 1,
        "serving": 1,
        "runtime": "fake",
        "tuning": None,
        "state": "ready",
        "ready": True,
        "reason": None,
        "warnings": [],
    }
    assert (waiting["name"], waiting["production"], waiting["ready"]) == ("waiting", None, False)


async def test_how_fast_a_version_is_shows_in_the_model_and_in_the_version(
    start: StartAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine that was chosen, what it computes in, its best batch, and what each candidate gave."""
    timed = EngineChoice(lambda _: [[Candidate("fake", load_fake)]], max_batch=4)
    monkeypatch.setattr(EngineChoice, "of", lambda _: timed)
    api = await start()
    (shapes,) = (await api.client.get("/api/v1/models")).json()["models"]
    tuning = shapes["tuning"]
    assert (tuning["engine"], tuning["precision"], tuning["candidates"].keys()) == ("fake", "f32", {"fake"})
    assert tuning["batch"] in (1, 2, 4)
    assert tuning["images_per_second"] == tuning["candidates"]["fake"] > 0
    assert (await api.client.get(f"{MODEL}/versions/1")).json()["tuning"] == tuning
    assert (await api.client.get(f"{MODEL}/versions/2")).json()["tuning"] is None


async def test_model_lists_its_versions_newest_first(api: API, evaluated: int) -> None:
    """A model's document has the metrics of each version, the newest first."""
    document = (await api.client.get(MODEL)).json()
    assert [entry["version"] for entry in document["details"]] == [3, 2, 1]
    assert document["details"][0]["metrics"] == {"accuracy": 0.75}
    assert document["details"][2]["created_by"] == "test"


async def test_spoilt_manifest_does_not_hide_the_other_versions(api: API, registry: Registry) -> None:
    """A version with a damaged manifest is listed with what is wrong, and the others as ever."""
    (registry.folder("shapes", 2) / "model.json").write_text("{")
    document = (await api.client.get(MODEL)).json()
    spoilt, sound = document["details"]
    assert "model.json" in spoilt["problem"]
    assert sound["problem"] is None


async def test_version_shows_manifest_and_evaluation(api: API, evaluated: int) -> None:
    """A version's document has its manifest, its evaluation and links to the files of it that work."""
    document = (await api.client.get(f"{MODEL}/versions/{evaluated}")).json()
    assert document["manifest"]["labels"] == list(LABELS)
    assert document["evaluation"] == REPORT
    assert (document["production"], document["serving"]) == (False, False)
    assert set(document["links"]) == {
        "report.json",
        "report.html",
        "confusion_matrix.svg",
        "weights.bin",
        "mistakes/0 a#.png",
    }
    for link in document["links"].values():
        assert (await api.client.get(link)).status_code == 200
    assert (await api.client.get(f"{MODEL}/versions/1")).json()["serving"] is True


async def test_pictures_are_shown_but_nothing_in_them_runs(api: API, evaluated: int) -> None:
    """A picture is served as it is, in a sandbox: a script in it could do nothing."""
    response = await api.client.get(f"{MODEL}/versions/{evaluated}/evaluation/confusion_matrix.svg")
    assert response.content == PICTURE
    assert response.headers["content-type"] == "image/svg+xml"
    assert "sandbox" in response.headers["content-security-policy"]
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff"
    other = await api.client.get(f"{MODEL}/versions/{evaluated}/evaluation/weights.bin")
    assert other.headers["content-disposition"].startswith("attachment")


@pytest.mark.parametrize(
    "name",
    [
        "model.json",
        "..%2Fmodel.json",
        "..%2F..%2F1%2Fmodel.json",
        "%2e%2e%2fmodel.json",
        "mistakes",
        "mistakes%2F",
        "mistakes/../../model.json",
        "mistakes%2F..%2Freport.json",
        "%2Fetc%2Fpasswd",
        "//etc/passwd",
        "",
        "nothing.svg",
        "%00",
        "report.json%00.svg",
    ],
)
async def test_only_files_of_the_evaluation_can_be_had(api: API, problem: Problem, evaluated: int, name: str) -> None:
    """No name leads out of the evaluation's folder."""
    response = await api.client.get(f"{MODEL}/versions/{evaluated}/evaluation/{name}")
    problem(response, 404, "not_found")


async def test_pictures_of_mistakes_can_be_had(api: API, evaluated: int) -> None:
    """The pictures that the report names, which are in a folder of the evaluation, are served under its names."""
    response = await api.client.get(f"{MODEL}/versions/{evaluated}/evaluation/mistakes/0%20a%23.png")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content.startswith(b"\x89PNG")


async def test_the_report_is_shown_as_a_page(api: API, evaluated: int) -> None:
    """`report.html` is HTML in the browser, and under a policy that lets nothing in it run or reach out."""
    response = await api.client.get(f"{MODEL}/versions/{evaluated}/evaluation/report.html")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = response.headers["content-security-policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
    assert "content-disposition" not in response.headers or "inline" in response.headers["content-disposition"]


async def test_forged_manifest_leads_nowhere(
    api: API, problem: Problem, registry: Registry, evaluated: int, tmp_path: Path
) -> None:
    """A manifest that lists paths out of the folder, links or what is not there makes none of them readable."""
    (tmp_path / "secret").write_text("secret")
    folder = registry.folder("shapes", evaluated)
    (folder / "evaluation" / "link.txt").symlink_to(tmp_path / "secret")
    forged = json.loads((folder / "model.json").read_text())
    names = ["../../../../secret", "../model.json", "link.txt", "gone.txt", f"{tmp_path}/secret"]
    forged["files"] |= {f"evaluation/{name}": "0" * 64 for name in names}
    (folder / "model.json").write_text(json.dumps(forged))
    for name in names:
        response = await api.client.get(f"{MODEL}/versions/{evaluated}/evaluation/{quote(name, safe='')}")
        problem(response, 404, "not_found")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/api/v1/models/other", 404, "model_not_found"),
        ("/api/v1/models/other/promotions", 404, "model_not_found"),
        ("/api/v1/models/other/versions/1", 404, "model_not_found"),
        ("/api/v1/models/shapes/versions/9", 404, "version_not_found"),
        ("/api/v1/models/shapes/versions/0", 422, "validation_failed"),
        ("/api/v1/models/shapes/versions/one", 422, "validation_failed"),
        ("/api/v1/models/Shapes", 400, "invalid_name"),
        ("/api/v1/models/%2e%2e", 400, "invalid_name"),
        ("/api/v1/models/.staging", 400, "invalid_name"),
    ],
)
async def test_what_does_not_exist_is_a_problem(api: API, problem: Problem, path: str, status: int, code: str) -> None:
    """Unknown models and versions, and names that cannot be any, are told apart."""
    problem(await api.client.get(path), status, code)


async def test_promoted_version_answers_at_once(api: API) -> None:
    """When a promotion is answered, the next prediction comes from the new version, and the log says who and why."""
    response = await api.client.post(f"{MODEL}/promote", json={"version": 2, "reason": "Better."})
    assert response.status_code == 200
    entry = response.json()
    assert (entry["model"], entry["version"], entry["action"]) == ("shapes", 2, "promote")
    assert (entry["by"], entry["reason"], entry["sequence"]) == ("anonymous", "Better.", 2)
    assert (await api.client.post("/api/v1/predict", content=gray(0))).json()["version"] == 2
    log = (await api.client.get(f"{MODEL}/promotions")).json()
    assert [(item["version"], item["reason"]) for item in log["promotions"]] == [(1, ""), (2, "Better.")]


async def test_log_has_the_numbers_that_a_promotion_rests_on(api: API, registry: Registry) -> None:
    """What the policy `if_better` compared can be read in the log; where nothing was compared, nothing stands."""
    registry.promote("shapes", 2, by="a job", decision=decision(2, 1))
    first, second = (await api.client.get(f"{MODEL}/promotions")).json()["promotions"]
    assert first["decision"] is None
    assert second["decision"] == decision(2, 1).model_dump(mode="json")


async def test_log_has_what_was_not_let_through(api: API, registry: Registry) -> None:
    """A refusal stands beside the promotions with its reason and numbers, and what answers stays."""
    registry.refuse("shapes", 2, after=1, by="a job", reason="worse", decision=decision(2, 1))
    log = (await api.client.get(f"{MODEL}/promotions")).json()
    assert [item["version"] for item in log["promotions"]] == [1]
    (refusal,) = log["refusals"]
    assert (refusal["version"], refusal["after"], refusal["by"], refusal["reason"]) == (2, 1, "a job", "worse")
    assert refusal["decision"] == decision(2, 1).model_dump(mode="json")
    assert (await api.client.post("/api/v1/predict", content=gray(0))).json()["version"] == 1


@pytest.mark.parametrize("body", [{"reason": "Worse."}, None])
async def test_rolled_back_version_answers_at_once(api: API, body: dict[str, str] | None) -> None:
    """A rollback makes the version before production again, and needs no body."""
    await api.client.post(f"{MODEL}/promote", json={"version": 2})
    response = await api.client.post(f"{MODEL}/rollback", json=body)
    entry = response.json()
    assert (entry["version"], entry["action"], entry["reason"]) == (1, "rollback", (body or {}).get("reason", ""))
    assert (await api.client.post("/api/v1/predict", content=gray(0))).json()["version"] == 1


@pytest.mark.parametrize("version", ["2", True, 2.5])
async def test_version_to_promote_is_a_number(api: API, problem: Problem, version: object) -> None:
    """Not a string that looks like one, nor a truth."""
    response = await api.client.post(f"{MODEL}/promote", json={"version": version})
    detail = problem(response, 422, "validation_failed")["detail"]
    assert detail == "body.version: must be a whole number, at least 1 and at most 999,999,999"


async def test_version_that_fails_its_checks_is_not_promoted(api: API, registry: Registry, problem: Problem) -> None:
    """A version whose golden examples come out otherwise is refused with the reason; log and answers stay."""
    bad = add_version(registry, forge=lambda images, answers: (images, answers[:, ::-1]))
    response = await api.client.post(f"{MODEL}/promote", json={"version": bad})
    assert "golden" in problem(response, 422, "version_refused")["detail"]
    assert registry.production("shapes").version == 1  # type: ignore[union-attr]
    assert (await api.client.post("/api/v1/predict", content=gray(0))).json()["version"] == 1


async def test_version_that_fails_its_checks_is_not_rolled_back_to(
    api: API, registry: Registry, problem: Problem
) -> None:
    """A rollback to a version that would not answer is refused; log and answers stay."""
    bad = add_version(registry, promote=True, forge=lambda images, answers: (images, answers[:, ::-1]))
    await api.client.post(f"{MODEL}/promote", json={"version": 2})
    assert [entry.version for entry in registry.promotions("shapes")] == [1, bad, 2]
    problem(await api.client.post(f"{MODEL}/rollback"), 422, "version_refused")
    assert [entry.version for entry in registry.promotions("shapes")] == [1, bad, 2]
    assert (await api.client.post("/api/v1/predict", content=gray(0))).json()["version"] == 2


async def test_only_the_version_that_was_checked_is_rolled_back_to(
    api: API, registry: Registry, problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When somebody promotes while a rollback is being checked, it is refused, and their promotion stays."""
    await api.client.post(f"{MODEL}/promote", json={"version": 2})
    third = add_version(registry)
    check = api.services.classifier.check

    async def check_while_another_promotes(model: str, version: int) -> None:
        await check(model, version)
        registry.promote("shapes", third, by="another")

    monkeypatch.setattr(api.services.classifier, "check", check_while_another_promotes)
    detail = problem(await api.client.post(f"{MODEL}/rollback"), 409, "conflict")["detail"]
    assert "would now lead to version 2, not 1" in detail
    assert [entry.version for entry in registry.promotions("shapes")] == [1, 2, third]


async def test_nothing_to_roll_back_to_is_a_conflict(api: API, problem: Problem) -> None:
    """A model whose first version is in production has none before."""
    problem(await api.client.post(f"{MODEL}/rollback"), 409, "conflict")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": 9}, 404, "version_not_found"),
        ({"version": 0}, 422, "validation_failed"),
        ({}, 422, "validation_failed"),
        ({"version": 1, "reason": "x" * 1001}, 422, "validation_failed"),
        ({"version": 1, "force": True}, 422, "validation_failed"),
    ],
    ids=str,
)
async def test_wrong_promotions_are_refused(
    api: API, problem: Problem, body: dict[str, object], status: int, code: str
) -> None:
    """A version that does not exist, or a field that is wrong, is refused."""
    problem(await api.client.post(f"{MODEL}/promote", json=body), status, code)
    problem(await api.client.post("/api/v1/models/none/promote", json={"version": 1}), 404, "model_not_found")


async def test_store_that_vanishes_is_no_stack_trace(start: StartAPI, tmp_path: Path) -> None:
    """When the store's folder is gone, models are none, and what was loaded goes on answering."""
    api = await start()
    shutil.rmtree(tmp_path / "store")
    assert (await api.client.get("/api/v1/models")).json() == {"models": []}
    assert (await api.client.post("/api/v1/predict", content=gray(0))).status_code == 200
