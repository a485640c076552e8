"""Models, datasets and training jobs, by both clients and against a real server."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from app.client import Busy, Conflict, JobFailed, JobState, NotFound, Problem, Progress, Retries
from app.jobs.executors.fake import Fake
from app.jobs.jobs import Jobs
from tests.client.conftest import Connect, Driver
from tests.client.scripted import Answer, refused, scripted
from tests.jobs.conftest import supervise
from tests.server import Server

QUEUED = {"id": "j", "state": "queued", "submitted_at": "2026-01-01T00:00:00Z"}
SUCCEEDED = {**QUEUED, "state": "succeeded"}
EPOCH = {"at": "2026-01-01T00:00:00Z", "attempt": 1, "phase": "fit", "epoch": 1, "loss": 0.5}


def test_models_are_looked_at_promoted_and_rolled_back(client: Driver) -> None:
    """What answers, what each version is, and who changed it."""
    (model,) = client(lambda client: client.models.list())
    assert (model.name, model.versions, model.production, model.ready) == ("cifar10", (1, 2), 1, True)
    assert [version.version for version in client(lambda client: client.models.versions("cifar10"))] == [2, 1]
    version = client(lambda client: client.models.version("cifar10", 2))
    assert (version.version, version.production, version.labels[0]) == (2, False, "horizontal")
    entry = client(lambda client: client.models.promote("cifar10", 2, reason="better"))
    assert (entry.version, entry.reason, entry.action) == (2, "better", "promote")
    assert client(lambda client: client.models.get("cifar10")).serving == 2
    assert client(lambda client: client.models.rollback("cifar10", reason="worse")).version == 1
    log = client(lambda client: client.models.promotions("cifar10"))
    assert [entry.reason for entry in log[-2:]] == ["better", "worse"]
    with pytest.raises(NotFound, match="It has: 1, 2"):
        client(lambda client: client.models.promote("cifar10", 9))


def test_folder_becomes_a_dataset(client: Driver, variant: str, pictures: Path) -> None:
    """A folder is packed and uploaded, and the report tells what was made of it."""
    name = f"folder-{variant}"
    with pytest.raises(TimeoutError):
        client(lambda client: client.datasets.wait(name, timeout=0.1))
    report = client(lambda client: client.datasets.upload(pictures, name))
    assert (report.name, report.images, report.classes) == (name, 20, {"dark": 10, "light": 10})
    assert [rejected.name for rejected in report.rejected] == ["notes.txt"]
    assert client(lambda client: client.datasets.wait(name, timeout=60)) == report
    assert client(lambda client: client.datasets.get(name)) == report
    listed = {dataset.name: dataset for dataset in client(lambda client: client.datasets.list())}
    assert (listed[name].images, listed["digits"].builtin) == (20, True)
    with pytest.raises(Conflict):
        client(lambda client: client.datasets.upload(pictures, name))


def test_archive_becomes_a_dataset(
    client: Driver,
    variant: str,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An archive is uploaded as it is, with a bar where one is asked for."""
    with tarfile.open(tmp_path / "some.tar.gz", "w:gz") as tar:
        tar.add(pictures, arcname="pictures")
    monkeypatch.setenv("FORCE_COLOR", "1")
    report = client(
        lambda client: client.datasets.upload(tmp_path / "some.tar.gz", f"archive-{variant}", progress=True)
    )
    assert report.images == 20
    assert "Checking on the server" in capsys.readouterr().err


def test_nothing_to_upload_is_told(client: Driver, tmp_path: Path) -> None:
    """A path that is not there, and a folder without files."""
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        client(lambda client: client.datasets.upload(tmp_path / "missing", "x"))
    with pytest.raises(ValueError, match="holds no files"):
        client(lambda client: client.datasets.upload(tmp_path, "x"))


def test_upload_is_sent_whole_again_after_a_refusal(connect: Connect, tmp_path: Path) -> None:
    """A server that was full for a moment gets the file from its begin."""
    (tmp_path / "a.tar").write_bytes(bytes(range(256)) * 9000)
    report = Answer(201, {"name": "a", "images": 2, "classes": {"b": 2}})
    with scripted(refused(429, "overloaded"), report) as server:
        client = connect(server.url, retries=Retries(first=0.01))
        assert client(lambda client: client.datasets.upload(tmp_path / "a.tar", "a")).images == 2
        first, second = server.asked
    assert first.body == second.body == (tmp_path / "a.tar").read_bytes()


def test_job_is_followed_to_its_result(client: Driver, server: Server) -> None:
    """Submitted, followed by its events and as documents, and what came of it."""
    jobs = Jobs(server.folder / "workspace" / "jobs")
    job = client(lambda client: client.jobs.submit("digits", model="mine", epochs=3))
    assert (job.state, job.spec["epochs"], job.final) == ("queued", 3, False)
    with pytest.raises(TimeoutError, match="still queued"):
        client(lambda client: client.jobs.wait(job.id, timeout=0.05))
    with supervise(jobs, Fake(epochs=3)):
        events = client(lambda client: client.jobs.events(job.id))
    assert [event.epoch for event in events if isinstance(event, Progress) and event.epoch] == [1, 2, 3]
    states = [event.state for event in events if isinstance(event, JobState)]
    assert states[-1] == "succeeded"
    documents = client(lambda client: client.jobs.follow(job.id))
    assert (documents[-1].final, len(documents[-1].history)) == (True, 3)
    result = client(lambda client: client.jobs.result(job.id, timeout=20))
    assert (result.model, result.version) == ("mine", 1)
    assert client(lambda client: client.jobs.list(limit=1))[0].id == job.id
    assert client(lambda client: client.jobs.log(job.id, lines=1)) == ""
    assert client(lambda client: client.call("GET", f"training-jobs/{job.id}/trials"))["search"] is None


def test_job_that_is_cancelled_has_no_result(client: Driver, server: Server) -> None:
    """Waiting ends however the job does; asking for the result says why there is none."""
    job = client(lambda client: client.jobs.submit("digits"))
    assert client(lambda client: client.jobs.cancel(job.id)).state == "cancelled"
    assert client(lambda client: client.jobs.wait(job.id)).state == "cancelled"
    assert client(lambda client: client.jobs.follow(job.id))[-1].state == "cancelled"
    with pytest.raises(JobFailed, match=f"Job {job.id} cancelled") as caught:
        client(lambda client: client.jobs.result(job.id))
    assert caught.value.job.id == job.id
    with pytest.raises(Conflict):
        client(lambda client: client.jobs.cancel(job.id))
    with pytest.raises(NotFound):
        client(lambda client: client.jobs.result("no-such-job"))
    with pytest.raises(NotFound):
        client(lambda client: client.jobs.events("no-such-job"))


def test_events_go_on_where_they_were_broken_off(connect: Connect) -> None:
    """A stream that ends too early is taken up again after the last event that came, as is a connection that broke."""
    streams = [
        _events((1, "progress", EPOCH), (1, "state", QUEUED)),
        None,
        _events((2, "progress", {**EPOCH, "epoch": 2}), (2, "state", SUCCEEDED)),
    ]
    with scripted(*streams) as server:
        events = connect(server.url)(lambda client: client.jobs.events("j"))
        assert [asked.headers.get("last-event-id") for asked in server.asked] == [None, "1", "1"]
    assert [getattr(event, "epoch", None) or event.state for event in events] == [1, "queued", 2, "succeeded"]


def test_server_that_stays_away_ends_the_events(connect: Connect) -> None:
    """After so much patience what is wrong is raised."""
    with scripted(_events((1, "state", QUEUED)), refused(503, "not_ready")) as server, pytest.raises(Busy):
        connect(server.url)(lambda client: client.jobs.events("j", patience=0.1))


def test_stream_without_events_is_not_listened_to_for_ever(connect: Connect) -> None:
    """What answers, but says nothing, has so much patience too."""
    with scripted(Answer(200, b"", kind="text/event-stream")) as server, pytest.raises(Problem, match="no events"):
        connect(server.url)(lambda client: client.jobs.events("j", patience=0.1))


def test_events_of_another_service_are_told(connect: Connect) -> None:
    """What is no event of a job is no reason to listen for ever."""
    with scripted(_events((1, "state", {"hello": 1}))) as server, pytest.raises(Problem, match="not as expected"):
        connect(server.url)(lambda client: client.jobs.events("j"))


def test_fields_of_a_newer_server_are_kept(connect: Connect) -> None:
    """What this client does not know is there all the same."""
    with scripted(Answer(200, {**QUEUED, "colour": "blue"})) as server:
        job = connect(server.url)(lambda client: client.jobs.get("j"))
    assert job.colour == "blue"


def _events(*events: tuple[int, str, Any]) -> Answer:
    """A stream of events, with a sign of life before and amid them."""
    lines = [f"id: {number}\nevent: {kind}\ndata: {json.dumps(data)}\n\n" for number, kind, data in events]
    return Answer(200, ": still here\n\n".join(["", *lines]).encode(), kind="text/event-stream")
