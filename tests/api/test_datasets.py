"""Datasets over the API."""

from __future__ import annotations

import asyncio
import fcntl
import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from app.api.uploads import clean_uploads, uploads
from tests.api.conftest import API, Problem, StartAPI
from tests.server import Server
from tests.serving.versions import gray

DATASETS = "/api/v1/datasets"


def images() -> dict[str, bytes]:
    shades = {"dark": 0, "light": 200}
    return {f"{label}/{index}.png": gray(shade + index) for label, shade in shades.items() for index in range(3)}


def make_zip(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def make_tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


async def test_uploaded_archive_becomes_a_dataset(api: API) -> None:
    """A raw zip is answered with 201, where the dataset is, and a report; then it is listed."""
    response = await api.client.post(f"{DATASETS}?name=shades", content=make_zip(images()))
    assert response.status_code == 201
    assert response.headers["location"] == f"{DATASETS}/shades"
    report = response.json()
    assert report["classes"] == {"dark": 3, "light": 3}
    assert (report["name"], report["images"], report["created_by"]) == ("shades", 6, "anonymous")
    assert (await api.client.get(response.headers["location"])).json() == report
    listed = (await api.client.get(DATASETS)).json()["datasets"]
    assert [dataset["name"] for dataset in listed] == ["shades", "digits", "shapes"]
    assert (listed[0]["images"], listed[0]["class_count"], listed[0]["problem"]) == (6, 2, None)


async def test_thumbnails_of_a_report_can_be_seen(api: API, problem: Problem) -> None:
    """What the report names as repeated can be fetched as a small picture, in which nothing runs; nothing else can."""
    files = images() | {"dark/again.png": gray(0)}
    report = (await api.client.post(f"{DATASETS}?name=shades", content=make_zip(files))).json()
    [duplicate] = report["duplicates"]
    [name] = duplicate["thumbnails"]
    response = await api.client.get(f"{DATASETS}/shades/thumbnails/{name}")
    assert (response.status_code, response.headers["content-type"]) == (200, "image/png")
    assert response.content.startswith(b"\x89PNG")
    assert "sandbox" in response.headers["content-security-policy"]
    for other in ("9999.png", "..%2Freport.json", "report.json"):
        problem(await api.client.get(f"{DATASETS}/shades/thumbnails/{other}"), 404, "not_found")
    problem(await api.client.get(f"{DATASETS}/none/thumbnails/{name}"), 404, "dataset_not_found")


async def test_damaged_dataset_hides_no_other(api: API, problem: Problem) -> None:
    """A dataset whose report was cut short is listed with what is wrong; the others are listed as ever, and trained."""
    for name in ("one", "two"):
        await api.client.post(f"{DATASETS}?name={name}", content=make_zip(images()))
    report = api.services.settings.workspace / "datasets" / "one" / "report.json"
    report.write_text(report.read_text()[:100])
    response = await api.client.get(DATASETS)
    assert response.status_code == 200
    one, two, *_ = response.json()["datasets"]
    assert "report.json of dataset one is damaged" in one["problem"]
    assert (one["images"], two["images"], two["problem"]) == (None, 6, None)
    problem(await api.client.get(f"{DATASETS}/one"), 507, "storage_failed")
    assert (await api.client.post("/api/v1/training-jobs", json={"dataset": "two"})).status_code == 202


async def test_list_does_not_grow_with_what_was_rejected(api: API) -> None:
    """The list has numbers where the report has up to a thousand rejected files and every class."""
    files = images() | {f"dark/{index}.txt": b"no image" for index in range(1000)}
    report = await api.client.post(f"{DATASETS}?name=shades", content=make_zip(files))
    assert len(report.json()["rejected"]) == 1000
    listed = await api.client.get(DATASETS)
    assert listed.json()["datasets"][0]["rejected_files"] == 1000
    assert len(listed.content) < 3000


@pytest.mark.parametrize("field", ["file", "archive"])
async def test_multipart_and_tar_do_as_well(api: API, field: str) -> None:
    """The archive may be a tar.gz, and the one file of a multipart body under any field name."""
    upload = {field: ("shades.tar.gz", make_tar(images()), "application/gzip")}
    response = await api.client.post(f"{DATASETS}?name=shades", files=upload)
    assert response.json()["images"] == 6


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 422, "validation_failed"),
        ("?name=../x", 400, "invalid_name"),
        ("?name=X", 400, "invalid_name"),
        ("?name=digits", 409, "conflict"),
        ("?name=a&force=1", 400, "invalid_request"),
    ],
)
async def test_wrong_names_are_refused(api: API, problem: Problem, query: str, status: int, code: str) -> None:
    """A missing, impossible or taken name is refused."""
    problem(await api.client.post(f"{DATASETS}{query}", content=make_zip(images())), status, code)


async def test_taken_name_is_refused_before_the_upload(api: API, problem: Problem) -> None:
    """A name that is taken is refused before the archive is stored, not after."""
    response = await api.client.post(f"{DATASETS}?name=digits", content=make_zip(images()))
    problem(response, 409, "conflict")
    assert not uploads(api.services.settings.workspace).exists()


@pytest.mark.parametrize(
    ("content", "headers", "status", "code"),
    [
        (b"", {}, 400, "invalid_request"),
        (b"no archive", {}, 422, "invalid_dataset"),
        (make_zip({"one/1.png": gray(0)})[:-30], {}, 422, "invalid_dataset"),
        (b"{}", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
        (b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "invalid_request"),
    ],
)
async def test_what_is_no_archive_is_refused_and_nothing_stays(
    api: API, problem: Problem, content: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    """A body that is no archive is refused with the reason, and leaves no file behind."""
    response = await api.client.post(f"{DATASETS}?name=shades", content=content, headers=headers)
    problem(response, status, code)
    assert list(uploads(api.services.settings.workspace).iterdir()) == []
    problem(await api.client.get(f"{DATASETS}/shades"), 404, "dataset_not_found")


async def test_two_files_are_one_too_many(api: API, problem: Problem) -> None:
    """A multipart body with two files is refused."""
    both = [("a", ("a.zip", make_zip(images()))), ("b", ("b.zip", make_zip(images())))]
    problem(await api.client.post(f"{DATASETS}?name=shades", files=both), 413, "payload_too_large")


async def test_archive_over_the_cap_is_refused(start: StartAPI, problem: Problem) -> None:
    """An archive over the cap is refused, whether it says its length or not."""
    api = await start(max_upload_bytes=2000)

    async def pieces() -> Any:
        for _ in range(5):
            yield b"x" * 1000

    for content in (b"x" * 2001, pieces()):
        response = await api.client.post(f"{DATASETS}?name=shades", content=content)
        assert "2000" in problem(response, 413, "payload_too_large")["detail"]
    assert list(uploads(api.services.settings.workspace).iterdir()) == []


async def test_slow_upload_is_cut_off(start: StartAPI, problem: Problem) -> None:
    """An upload that is not complete at its deadline is refused with 408."""
    api = await start(upload_timeout=0.05)

    async def pieces() -> Any:
        while True:
            yield b"x"
            await asyncio.sleep(0.01)

    problem(await api.client.post(f"{DATASETS}?name=shades", content=pieces()), 408, "request_timeout")
    assert list(uploads(api.services.settings.workspace).iterdir()) == []


async def test_workspace_that_cannot_be_written_is_said(start: StartAPI, tmp_path: Path, problem: Problem) -> None:
    """When the workspace refuses to be written the answer is 507, not a stack trace."""
    (tmp_path / "file").write_text("in the way")
    api = await start(workspace=tmp_path / "file")
    problem(await api.client.post(f"{DATASETS}?name=shades", content=b"x"), 507, "storage_failed")


async def test_unknown_dataset_is_told_which_there_are(api: API, problem: Problem) -> None:
    """A dataset that does not exist is a 404 that names those that do."""
    assert "digits, shapes" in problem(await api.client.get(f"{DATASETS}/none"), 404, "dataset_not_found")["detail"]


def test_uploads_of_the_dead_are_removed_and_those_of_the_living_kept(tmp_path: Path) -> None:
    """At start what a killed server left of an upload goes; what another is receiving stays."""
    folder = uploads(tmp_path)
    folder.mkdir()
    (folder / "upload-left").write_bytes(b"half an archive")
    with (folder / "upload-living").open("wb") as living:
        fcntl.flock(living, fcntl.LOCK_EX)
        clean_uploads(tmp_path)
        assert [path.name for path in folder.iterdir()] == ["upload-living"]
    clean_uploads(tmp_path / "none")


def test_upload_over_the_network(server: Server) -> None:
    """A real server takes an archive as curl sends it."""
    response = server.client.post(f"{DATASETS}?name=shades", content=make_tar(images()))
    assert response.status_code == 201
    assert response.json()["classes"] == {"dark": 3, "light": 3}
