"""Training jobs over the API. The trainer is played by the fake executor."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from app.jobs.executors.fake import Fake
from app.jobs.folder import Progress, now
from app.jobs.supervisor import Supervisor
from tests.api.conftest import API, Problem
from tests.api.test_datasets import make_zip
from tests.server import Server
from tests.serving.versions import gray
from tests.training.toy_trials import tried

JOBS = "/api/v1/training-jobs"

# (split, label) of images of a dataset whose test folder lacks a class.
_UNTESTED = [(split, label) for split, labels in (("train", "abc"), ("test", "ab")) for label in 2 * labels]


async def submit(api: API, **spec: Any) -> str:
    response = await api.client.post(JOBS, json={"dataset": "shapes", **spec})
    assert response.status_code == 202, response.text
    identity: str = response.json()["id"]
    return identity


def play(api: API, **script: Any) -> Supervisor:
    """A supervisor whose trainers are played; `step` makes it look once."""
    return Supervisor(api.services.jobs, Fake(**script), poll=0.01)


async def finished(api: API, job: str, supervisor: Supervisor) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            await asyncio.to_thread(supervisor.step)
            document: dict[str, Any] = (await api.client.get(f"{JOBS}/{job}")).json()
            if document["state"] in ("succeeded", "failed", "cancelled"):
                return document
            await asyncio.sleep(0.01)


async def test_submitted_job_is_queued_with_all_its_defaults(api: API) -> None:
    """A job is accepted with 202, its address and its document, in which every default is spelt out."""
    response = await api.client.post(JOBS, json={"dataset": "digits"})
    assert response.status_code == 202
    document = response.json()
    assert response.headers["location"] == f"{JOBS}/{document['id']}"
    assert (document["state"], document["attempt"], document["history"]) == ("queued", 0, [])
    assert document["spec"]["dataset"] == "digits"
    assert document["spec"]["schedule"] == "cosine"
    assert document["spec"]["optimizer"] is None, "chosen from the data, which nobody has looked at yet"
    assert (await api.client.get(response.headers["location"])).json() == document


async def test_finished_job_shows_epochs_and_result(api: API) -> None:
    """A job's document has its epochs while it runs, and the version and metrics when it is done."""
    job = await submit(api)
    document = await finished(api, job, play(api, epochs=3))
    assert document["state"] == "succeeded"
    assert [line["epoch"] for line in document["history"]] == [1, 2, 3]
    assert document["result"]["model"] == "shapes"
    assert document["result"]["metrics"]["accuracy"] == pytest.approx(0.875)


async def test_jobs_are_listed_newest_first(api: API) -> None:
    """The list has the newest jobs first, as many as asked for."""
    jobs = [await submit(api) for _ in range(3)]
    listed = (await api.client.get(JOBS)).json()["jobs"]
    assert [job["id"] for job in listed] == jobs[::-1]
    assert len((await api.client.get(f"{JOBS}?limit=2")).json()["jobs"]) == 2


async def test_unknown_dataset_is_told_which_there_are(api: API, problem: Problem) -> None:
    """A job for a dataset that does not exist is refused with those that do; nothing is queued."""
    response = await api.client.post(JOBS, json={"dataset": "none"})
    assert "digits, shapes" in problem(response, 404, "dataset_not_found")["detail"]
    assert (await api.client.get(JOBS)).json() == {"jobs": [], "unreadable": []}


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"only/1.png": gray(1), "only/2.png": gray(2)}, "one class only"),
        (
            {"a/1.png": gray(1), "a/2.png": gray(2), "a/3.png": gray(3), "b/1.png": gray(4)},
            "fewer than 2 images of 'b'",
        ),
        (
            {"a/1.png": gray(1), "a/2.png": gray(2), "b/1.png": gray(3), "b/2.png": gray(3)},
            "nothing but copies of one file in 'b'",
        ),
        (
            {f"{split}/{label}/{index}.png": gray(index) for index, (split, label) in enumerate(_UNTESTED)},
            "The test split of dataset poor has no image of 'c'",
        ),
    ],
)
async def test_dataset_that_cannot_be_trained_on_is_refused_at_once(
    api: API, problem: Problem, files: dict[str, bytes], said: str
) -> None:
    """A dataset with one class, or with a class that cannot be trained and tested, is refused at submission."""
    upload = await api.client.post("/api/v1/datasets?name=poor", content=make_zip(files))
    if upload.status_code != 201:
        problem(upload, 422, "invalid_dataset")
        return
    response = await api.client.post(JOBS, json={"dataset": "poor"})
    assert said in problem(response, 422, "invalid_dataset")["detail"]
    assert (await api.client.get(JOBS)).json()["jobs"] == []


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"class_weights": {"eleven": 2}}, "Its classes: 0, 1, 2"),
        ({"architecture": {"name": "simple_cnn", "filters": [8] * 8}}, "images of 28 x 28 have room for 4"),
        (
            {
                "architecture": {"name": "mobilenet_v2", "weights": "gone.h5"},
                "preprocessing": {"height": 64, "width": 64},
            },
            "That folder has no files",
        ),
    ],
    ids=["class", "stages", "weights"],
)
async def test_spec_that_does_not_fit_its_dataset_is_refused_at_once(
    api: API, problem: Problem, fields: dict[str, object], said: str
) -> None:
    """What would fail after the images were decoded is a 422 that says what is allowed; nothing is queued."""
    response = await api.client.post(JOBS, json={"dataset": "digits", **fields})
    assert said in problem(response, 422, "invalid_spec")["detail"]
    assert (await api.client.get(JOBS)).json()["jobs"] == []


async def test_two_images_a_class_are_accepted(api: API) -> None:
    """One to train and one to test on: that is the least a job is taken for."""
    files = {f"{label}/{index}.png": gray(10 * index + ord(label)) for label in "ab" for index in range(2)}
    assert (await api.client.post("/api/v1/datasets?name=few", content=make_zip(files))).status_code == 201
    assert (await api.client.post(JOBS, json={"dataset": "few"})).status_code == 202


async def test_queued_job_is_cancelled_at_once(api: API, problem: Problem) -> None:
    """A job that no trainer has taken is cancelled when it is asked for; a second time is a conflict."""
    job = await submit(api)
    response = await api.client.post(f"{JOBS}/{job}/cancel")
    assert (response.status_code, response.json()["state"]) == (202, "cancelled")
    problem(await api.client.post(f"{JOBS}/{job}/cancel"), 409, "conflict")


async def test_job_whose_version_comes_into_being_is_not_cancelled(api: API, problem: Problem) -> None:
    """From the export on a cancel is a conflict that says so, and the job goes on."""
    job = await submit(api)
    api.services.jobs.get(job).append(Progress(at=now(), attempt=1, phase="export"))
    refused = problem(await api.client.post(f"{JOBS}/{job}/cancel"), 409, "conflict")
    assert "its version is being registered" in refused["detail"]
    assert (await api.client.get(f"{JOBS}/{job}")).json()["cancel_requested"] is False


async def test_unreadable_job_is_told_as_such_and_hides_no_other(api: API, problem: Problem) -> None:
    """A job that another release has written stands aside in the list, with the reason; asked for, it is a problem."""
    spoilt, job = await submit(api), await submit(api)
    (api.services.jobs.get(spoilt).path / "spec.json").write_text('{"dataset": "shapes", "depth": 3}')
    listed = (await api.client.get(JOBS)).json()
    assert [document["id"] for document in listed["jobs"]] == [job]
    [unreadable] = listed["unreadable"]
    assert unreadable["id"] == spoilt
    assert "depth: there is no such field" in unreadable["problem"]
    for path in ("", "/events"):
        refused = problem(await api.client.get(f"{JOBS}/{spoilt}{path}"), 507, "storage_failed")
        assert refused["detail"] == unreadable["problem"]


async def test_trials_of_a_search_are_shown_as_they_come(api: API) -> None:
    """What was tried, how it did after each epoch, and the best so far; a job without a search has none."""
    search = {"space": {"learning_rate": [0.001, 0.01]}, "method": "grid"}
    job = await submit(api, search=search)
    empty = (await api.client.get(f"{JOBS}/{job}/trials")).json()
    assert (empty["trials"], empty["best"], empty["done"]) == ([], None, False)
    assert empty["search"]["space"] == search["space"]
    tried(api.services.jobs.get(job), {"learning_rate": 0.001}, {"learning_rate": 0.01})
    document = (await api.client.get(f"{JOBS}/{job}/trials")).json()
    assert [trial["values"] for trial in document["trials"]] == [{"learning_rate": 0.001}, {"learning_rate": 0.01}]
    assert [point["epoch"] for point in document["trials"][0]["curve"]] == [1, 2, 3, 4]
    assert document["best"] == 2
    plain = (await api.client.get(f"{JOBS}/{await submit(api)}/trials")).json()
    assert (plain["search"], plain["trials"]) == (None, [])


async def test_search_that_cannot_work_is_refused_at_once(api: API, problem: Problem) -> None:
    """The refusal names the path of the space, and says what is allowed; nothing is queued."""
    search = {"space": {"augmentation.spin": [1]}, "trials": 2}
    response = await api.client.post(JOBS, json={"dataset": "digits", "search": search})
    detail = problem(response, 422, "validation_failed")["detail"]
    assert detail.startswith("body.search: space.augmentation.spin: there is no such field. Allowed: augmentation.")
    assert (await api.client.get(JOBS)).json()["jobs"] == []


async def test_log_is_plain_text_and_can_be_cut(api: API, problem: Problem) -> None:
    """The log is plain text; `tail` gives its last lines."""
    job = await submit(api)
    folder = api.services.jobs.get(job)
    assert (await api.client.get(f"{JOBS}/{job}/log")).text == ""
    (folder.path / "log.txt").write_text("one\n<b>two</b>\nthree\n")
    whole = await api.client.get(f"{JOBS}/{job}/log")
    assert whole.text == "one\n<b>two</b>\nthree\n"
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.headers["x-content-type-options"] == "nosniff"
    assert (await api.client.get(f"{JOBS}/{job}/log?tail=1")).text == "three\n"
    problem(await api.client.get(f"{JOBS}/{job}/log?tail=0"), 422, "validation_failed")


@pytest.mark.parametrize("path", ["", "/log", "/events", "/trials"])
@pytest.mark.parametrize("job", ["20260101-000000-0000000", "..", "%2e%2e", "a%2Fb", "%00", "X" * 100])
async def test_unknown_jobs_are_problems(api: API, path: str, job: str) -> None:
    """A job that does not exist, or whose id cannot be one, is a 404."""
    response = await api.client.get(httpx.URL("http://127.0.0.1").copy_with(raw_path=f"{JOBS}/{job}{path}".encode()))
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


Event = tuple[int, str, dict[str, Any]]


def parse(text: str) -> list[Event]:
    """Server-sent events, without the comments."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if fields:
            events.append((int(fields["id"]), fields["event"], json.loads(fields["data"])))
    return events


async def test_events_tell_progress_and_end_with_the_final_state(api: API) -> None:
    """The stream has every line of progress and every state, in order, and ends after the last."""
    job = await submit(api)
    supervisor = play(api, epochs=3, seconds=0.02)
    following = asyncio.create_task(api.client.get(f"{JOBS}/{job}/events"))
    await asyncio.sleep(0.05)
    await finished(api, job, supervisor)
    response = await following
    assert response.headers["content-type"].startswith("text/event-stream")
    events = parse(response.text)
    assert [data["epoch"] for _, kind, data in events if kind == "progress"] == [1, 2, 3]
    states = [data["state"] for _, kind, data in events if kind == "state"]
    assert (states[0], states[-1]) == ("queued", "succeeded")
    assert events[-1][2]["result"]["version"] == 1


async def test_interrupted_stream_goes_on_where_it_ended(api: API) -> None:
    """With Last-Event-ID only the progress after it is told again."""
    job = await submit(api)
    await finished(api, job, play(api, epochs=4))
    whole = parse((await api.client.get(f"{JOBS}/{job}/events")).text)
    [second] = [number for number, kind, data in whole if kind == "progress" and data["epoch"] == 2]
    response = await api.client.get(f"{JOBS}/{job}/events", headers={"Last-Event-ID": str(second)})
    rest = parse(response.text)
    assert [data["epoch"] for _, kind, data in rest if kind == "progress"] == [3, 4]
    assert rest[-1][1:] == whole[-1][1:]
    for odd in ("x", "-1", "9" * 50):
        again = await api.client.get(f"{JOBS}/{job}/events", headers={"Last-Event-ID": odd})
        assert parse(again.text) == whole


async def test_line_that_was_cut_short_makes_no_event_come_twice(api: API, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past a line that a crash cut short each line of progress is one event, also where a stream was interrupted."""
    monkeypatch.setattr("app.api.training_jobs._POLL_SECONDS", 0.01)
    job = await submit(api)
    folder = api.services.jobs.get(job)
    folder.append(Progress(at=now(), attempt=1, phase="fit", epoch=1))
    with (folder.path / "progress.jsonl").open("a") as file:
        file.write('{"phase": "fi')
    folder.append(Progress(at=now(), attempt=2, phase="fit", epoch=2))
    following = asyncio.create_task(api.client.get(f"{JOBS}/{job}/events"))
    await asyncio.sleep(0.2)
    folder.append(Progress(at=now(), attempt=2, phase="fit", epoch=3))
    await asyncio.sleep(0.2)
    await api.client.post(f"{JOBS}/{job}/cancel")
    told = [(number, data["epoch"]) for number, kind, data in parse((await following).text) if kind == "progress"]
    assert told == [(1, 1), (3, 2), (4, 3)]
    again = await api.client.get(f"{JOBS}/{job}/events", headers={"Last-Event-ID": "3"})
    assert [data["epoch"] for _, kind, data in parse(again.text) if kind == "progress"] == [3]


async def test_silent_stream_has_heartbeats(api: API, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in which nothing happens says so now and then, so that no proxy closes it."""
    monkeypatch.setattr("app.api.training_jobs._HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr("app.api.training_jobs._POLL_SECONDS", 0.01)
    job = await submit(api)
    following = asyncio.create_task(api.client.get(f"{JOBS}/{job}/events"))
    await asyncio.sleep(0.3)
    await api.client.post(f"{JOBS}/{job}/cancel")
    text = (await following).text
    assert text.count(": still here") >= 2
    assert [data["state"] for _, _, data in parse(text)] == ["queued", "cancelled"]


def test_events_over_the_network_come_as_they_happen(server: Server) -> None:
    """A real server sends each event when it happens, and other requests meanwhile are answered."""
    response = server.client.post(JOBS, json={"dataset": "shapes"})
    address = response.headers["location"]
    with server.client.stream("GET", f"{address}/events") as stream:
        lines = stream.iter_lines()
        assert [next(lines) for _ in range(2)] == ["id: 0", "event: state"]
        assert json.loads(next(lines).removeprefix("data: "))["state"] == "queued"
        cancelled = httpx.post(f"{server.url}{address}/cancel")
        assert cancelled.json()["state"] == "cancelled"
        rest = "\n".join(lines)
    assert '"state": "cancelled"' in rest


@pytest.mark.parametrize("name", ["simple_cnn", "resnet_small", "mobilenet_v2"])
async def test_wrong_field_of_a_network_is_told_with_those_that_it_has(api: API, problem: Problem, name: str) -> None:
    """Those of the network that was asked for, whichever of the three kinds it is."""
    response = await api.client.post(JOBS, json={"dataset": "digits", "architecture": {"name": name, "widht": 1}})
    detail = problem(response, 422, "validation_failed")["detail"]
    own = {"simple_cnn": "convolutions", "resnet_small": "stem", "mobilenet_v2": "width"}
    assert detail.startswith(f"body.architecture.{name}.widht: There is no such field. Allowed: name, ")
    assert [field in detail.split("Allowed: ")[1].split(", ") for field in own.values()] == [
        other == name for other in own
    ]
