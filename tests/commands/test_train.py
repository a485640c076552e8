"""`fovea train` and `fovea jobs`: against a real server, and without one."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from app.api.security import make_key
from app.commands import following
from app.commands.backends import News
from app.commands.remote import Remote
from app.commands.train import ARCHITECTURES
from app.jobs.executors import local_process as real
from app.jobs.executors.fake import Fake
from app.jobs.folder import JobResult, Placement, Progress, now
from app.jobs.jobs import Jobs
from app.jobs.networks import Architecture, SimpleCNN
from app.jobs.spec import TrainingSpec
from app.jobs.trials import TrialFolder
from tests.commands.conftest import Fovea
from tests.jobs.conftest import local_process, supervise, wait_for, wait_until
from tests.server import Server, running
from tests.training.toy_trials import tried

# `fovea` with a trainer that trains nothing: epochs of so many seconds.
_FAKED = (
    "import sys; from app.jobs.executors import local_process; from app.jobs.executors.fake import Fake\n"
    "local_process.LocalProcess = lambda _: Fake(epochs=400, seconds={seconds})\n"
    "from app.cli import main; main(sys.argv[1:])"
)


@pytest.fixture(scope="module")
def server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server has its store and its workspace."""
    return tmp_path_factory.mktemp("server")


@pytest.fixture(scope="module")
def server(server_folder: Path) -> Iterator[Server]:
    """A real server that only queues."""
    with running(server_folder) as server:
        yield server


@pytest.fixture
def server_jobs(server_folder: Path) -> Jobs:
    """The jobs of the server's workspace."""
    return Jobs(server_folder / "workspace" / "jobs")


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    """The jobs of the workspace that the command sees."""
    return Jobs(tmp_path / "workspace" / "jobs")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--local` with the fake executor."""
    monkeypatch.setattr(real, "LocalProcess", lambda _: Fake(epochs=3))


def start(
    *arguments: object, code: str = "from app.cli import main; main()", **options: Any
) -> subprocess.Popen[bytes]:
    """The command as a process."""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **options)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


# Against a server


def test_job_is_submitted_to_the_server_and_followed(fovea: Fovea, server: Server, server_jobs: Jobs) -> None:
    """The job runs to its end before one's eyes; then come version, accuracy, report, and how to promote."""
    with supervise(server_jobs, Fake(epochs=3, seconds=0.05)):
        result = fovea("train", "digits", "--model", "mine", "--epochs", 3, "--server", server.url)
    assert result.exit_code == 0, result.output
    assert [line for line in result.stdout.splitlines() if line.startswith("epoch")][-1].startswith(
        "epoch 3/3  loss 0.1250  accuracy 0.8750  validation 0.8750"
    )
    assert "Trained mine version 1, accuracy 0.8750 on the test split." in result.stdout
    assert f"Report:   {server.url}/api/v1/models/mine/versions/1" in result.stdout
    assert f"Promote:  curl -X POST {server.url}/api/v1/models/mine/promote" in result.stdout
    job = server_jobs.list()[0]
    assert job.spec().epochs == 3
    assert job.id in result.stderr


def test_promotion_is_by_command_where_the_server_has_the_same_store(tmp_path: Path) -> None:
    """What to type for a version is a request, unless the version is found in the store of the command line."""
    with Remote("http://127.0.0.1:8000", None, store=tmp_path) as remote:
        assert remote.promotion("digits", 2).startswith("curl -X POST http://127.0.0.1:8000/")
        (tmp_path / "digits" / "2").mkdir(parents=True)
        assert remote.promotion("digits", 2) == "fovea models promote digits 2"
    with Remote("http://127.0.0.1:8000", None) as remote:
        assert remote.promotion("digits", 2).startswith("curl")


def test_folder_is_uploaded_first(fovea: Fovea, server: Server, server_jobs: Jobs, pictures: Path) -> None:
    """A path is made a dataset of the server, which the job then is about; the second time its name is enough."""
    with supervise(server_jobs, Fake()):
        result = fovea("train", pictures, "--name", "snaps", "--server", server.url)
        assert result.exit_code == 0, result.output
        assert f"Added {pictures} as dataset snaps: 20 images in 2 classes.\n" in result.stderr
        assert server.client.get("/api/v1/datasets/snaps").json()["images"] == 20
        assert server_jobs.list()[0].spec().dataset == "snaps"
        again = fovea("train", pictures, "--name", "snaps", "--server", server.url)
        assert again.exit_code == 1
        assert "fovea train snaps" in again.stderr
        assert fovea("train", "snaps", "--server", server.url).exit_code == 0


def test_detached_job_is_only_submitted(fovea: Fovea, server: Server, server_jobs: Jobs) -> None:
    """With --detach the job's id is all that is printed; `fovea jobs` comes back to it."""
    result = fovea("train", "digits", "--detach", "--server", server.url)
    job = server_jobs.get(result.stdout.strip())
    assert job.state().state == "queued"
    listed = fovea("jobs", "list", "--server", server.url)
    assert listed.output.splitlines()[1].split()[:4] == [job.id, "queued", "digits", "digits"]
    with supervise(server_jobs, Fake()):
        followed = fovea("jobs", "follow", job.id, "--server", server.url)
    assert followed.exit_code == 0
    assert "Trained digits version 1" in followed.stdout


def test_cancelled_job_ends_the_command_with_status_1(fovea: Fovea, server: Server, server_jobs: Jobs) -> None:
    """Whoever follows a job that is cancelled is told so."""
    job = fovea("train", "digits", "--detach", "--server", server.url).stdout.strip()
    (server_jobs.get(job).path / "log.txt").write_text("one\ntwo\n")
    assert fovea("jobs", "log", job, "--tail", 1, "--server", server.url).output == "two\n"
    cancelled = fovea("jobs", "cancel", job, "--server", server.url)
    assert (cancelled.exit_code, cancelled.stdout) == (0, f"Job {job} is cancelled.\n")
    followed = fovea("jobs", "follow", job, "--server", server.url)
    assert followed.exit_code == 1
    assert f"Job {job} cancelled: Cancelled before it began." in followed.stderr
    again = fovea("jobs", "cancel", job, "--server", server.url)
    assert again.exit_code == 1
    assert "has ended already: it was cancelled." in again.stderr


def test_unreadable_job_is_listed_among_the_others(
    fovea: Fovea, server: Server, server_jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that cannot be shown has a line with the reason, at its place; over a server and without one."""
    first, spoilt, last = (server_jobs.submit(TrainingSpec(dataset="digits")) for _ in range(3))
    (spoilt.path / "spec.json").write_text('{"dataset": "digits", "depth": 3}')
    monkeypatch.setenv("FOVEA_WORKSPACE", str(server_jobs.root.parent))
    for arguments in (("--server", server.url), ("--local",)):
        result = fovea("jobs", "list", *arguments)
        assert result.exit_code == 0, result.output
        lines = [line.split()[:2] for line in result.stdout.splitlines()[1:4]]
        assert lines == [[last.id, "queued"], [spoilt.id, "unreadable"], [first.id, "queued"]]
        assert "depth: there is no such field" in result.stdout
        followed = fovea("jobs", "follow", spoilt.id, *arguments)
        assert followed.exit_code == 1
        assert f"The spec.json of job {spoilt.id} is not valid here" in followed.stderr
    for job in (first, spoilt, last):
        server_jobs.cancel(job.id)


def test_cancelled_job_is_said_to_be_so_only_when_it_is(fovea: Fovea, jobs: Jobs) -> None:
    """One that waits is cancelled at once; one that a trainer is at work on is asked to stop."""
    waiting, running = (jobs.submit(TrainingSpec(dataset="digits")) for _ in range(2))
    assert fovea("jobs", "cancel", waiting.id, "--local").stdout == f"Job {waiting.id} is cancelled.\n"
    with running.hold():
        assert fovea("jobs", "cancel", running.id, "--local").stdout == f"Job {running.id} is asked to stop.\n"


def test_cancelling_too_late_is_told(fovea: Fovea, jobs: Jobs) -> None:
    """A job whose version is being registered is not said to be asked to stop."""
    job = jobs.submit(TrainingSpec(dataset="digits"))
    job.append(Progress(at=now(), attempt=1, phase="export"))
    result = fovea("jobs", "cancel", job.id, "--local")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"It is too late to cancel job {job.id}" in result.stderr


def test_interrupted_command_leaves_the_job_running(server: Server, server_jobs: Jobs) -> None:
    """Ctrl-C detaches with status 0, and says how to come back."""
    with supervise(server_jobs, Fake(epochs=10_000, seconds=0.05)):
        process = start("train", "digits", "--server", server.url, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        job = server_jobs.list()[0]
        assert process.returncode == 0
        assert f"fovea jobs follow {job.id} --server {server.url}".encode() in errors
        wait_for(job, "running")
        assert not job.cancel_requested
        server_jobs.cancel(job.id)
        wait_for(job, "cancelled")


def test_all_that_a_job_has_said_is_told_to_who_comes_later(
    fovea: Fovea, server: Server, server_jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it ended before, with what was said between the epochs; over a server and without one."""
    monkeypatch.setenv("FOVEA_WORKSPACE", str(server_jobs.root.parent))
    job = server_jobs.submit(TrainingSpec(dataset="digits"))
    job.append(Progress(at=now(), attempt=1, phase="dataset", message="20 images"))
    job.append(Progress(at=now(), attempt=1, phase="fit", message="7 parameters"))
    with supervise(server_jobs, Fake(epochs=2)):
        wait_for(job, "succeeded")
    job.append(Progress(at=now(), attempt=1, phase="promote", message="not promoted"))
    for arguments in (("--server", server.url), ("--local",)):
        lines = fovea("jobs", "follow", job.id, *arguments).stdout.splitlines()
        said = ["dataset: 20 images", "fit: 7 parameters", "epoch 1/2", "epoch 2/2", "promote: not promoted"]
        assert [line.partition("  ")[0] for line in lines[:6]] == [
            *said,
            "Trained digits version 1, accuracy 0.7500 on the test split.",
        ]


def test_following_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    """A server that is killed and comes back on its port is waited for."""
    port = free_port()
    jobs = Jobs(tmp_path / "workspace" / "jobs")
    with supervise(jobs, Fake(epochs=100, seconds=0.05)):
        with running(tmp_path, port=port) as server:
            process = start("train", "digits", "--server", server.url, stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline()
            server.kill()
        with running(tmp_path, port=port):
            output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"Trained digits version 1" in output


def test_server_that_does_not_answer_is_status_3(fovea: Fovea) -> None:
    """Where nothing listens, the message says what to do instead."""
    url = f"http://127.0.0.1:{free_port()}"
    for arguments in (("train", "digits"), ("jobs", "list"), ("jobs", "follow", "x")):
        result = fovea(*arguments, "--server", url)
        assert result.exit_code == 3, arguments
        assert f"No Fovea server answers at {url}" in result.stderr
        assert "--local" in result.stderr


def test_port_of_the_settings_is_the_default(fovea: Fovea, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --server it is the server of this machine, on the port of the settings."""
    port = free_port()
    monkeypatch.setenv("FOVEA_PORT", str(port))
    assert f"http://127.0.0.1:{port} (the port is that of FOVEA_PORT" in fovea("train", "digits").stderr


def test_workspace_without_jobs_is_named(fovea: Fovea, tmp_path: Path) -> None:
    """Where there are no jobs, it is told where they were looked for."""
    result = fovea("jobs", "list", "--local")
    assert result.exit_code == 0
    assert result.stderr == f"No training jobs in {tmp_path / 'workspace'} (FOVEA_WORKSPACE).\n"


def test_job_that_is_not_found_is_told_with_where_it_was_looked_for(
    fovea: Fovea, server: Server, jobs: Jobs, tmp_path: Path
) -> None:
    """Server and command may have workspaces of their own: each names the one that it looked in."""
    job = jobs.submit(TrainingSpec(dataset="digits")).id
    for command in ("follow", "cancel", "log", "trials"):
        missing = fovea("jobs", command, "20260101-000000-0000000", "--local").stderr
        assert f"The newest: {job}. Looked in {tmp_path / 'workspace'} (FOVEA_WORKSPACE).\n" in missing
        asked = fovea("jobs", command, job, "--server", server.url).stderr
        assert f"There is no job {job!r}" in asked
        assert f"Asked the server at {server.url}; --local looks in the workspace here (FOVEA_WORKSPACE).\n" in asked
    assert f"There is no dataset 'mine' at {server.url}. " in fovea("train", "mine", "--server", server.url).stderr


def test_something_else_at_the_address_is_told(fovea: Fovea, server: Server) -> None:
    """An address that is none, or a path that is not the API, is no traceback."""
    result = fovea("jobs", "list", "--server", "127.0.0.1:8000")
    assert result.exit_code == 2
    assert "http://127.0.0.1:8000" in result.stderr
    result = fovea("jobs", "list", "--server", f"{server.url}/docs")
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output


def test_key_is_sent(tmp_path: Path, fovea: Fovea, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server with keys is told the key, by option or by variable; without one it refuses, in its words."""
    key, line = make_key("me", ["train"])
    (tmp_path / "keys").write_text(line)
    with running(tmp_path, api_keys=tmp_path / "keys") as server:
        refused = fovea("jobs", "list", "--server", server.url)
        assert refused.exit_code == 1
        assert "needs an API key" in refused.stderr
        assert fovea("jobs", "list", "--server", server.url, "--key", key).exit_code == 0
        monkeypatch.setenv("FOVEA_API_KEY", key)
        assert fovea("train", "digits", "--detach", "--server", server.url).exit_code == 0


# Without a server


@pytest.mark.usefixtures("fake")
def test_local_job_needs_no_server(fovea: Fovea, jobs: Jobs, tmp_path: Path) -> None:
    """With --local the job is queued in the workspace and run from here."""
    result = fovea("train", "digits", "--local", "--promotion", "if_better")
    assert result.exit_code == 0
    assert "epoch 3/3" in result.stdout
    assert f"Report:   {tmp_path / 'store' / 'digits' / '1' / 'evaluation'}" in result.stdout
    assert "Promoted: no (The promotion policy is manual)" in result.stdout
    assert "Promote anyway: fovea models promote digits 1" in result.stdout
    (job,) = jobs.list()
    assert job.spec().promotion == "if_better"
    assert fovea("jobs", "follow", job.id, "--local").exit_code == 0


@pytest.mark.usefixtures("fake")
def test_local_path_is_added_to_the_workspace(fovea: Fovea, jobs: Jobs, pictures: Path) -> None:
    """A folder becomes a dataset of the workspace, and the job is about it."""
    assert fovea("train", pictures, "--local").exit_code == 0
    assert jobs.list()[0].spec().dataset == "holiday-pictures"
    assert "holiday-pictures" in fovea("datasets", "list").output


@pytest.mark.usefixtures("fake")
def test_local_job_that_cannot_work_is_refused_at_once(fovea: Fovea, jobs: Jobs, pictures: Path) -> None:
    """Without a server a class of one image is refused as well, and so is a dataset that is not there."""
    for image in sorted((pictures / "dark").iterdir())[1:]:
        image.unlink()
    refused = fovea("train", pictures, "--local")
    assert refused.exit_code == 2
    assert "fewer than 2 images of 'dark'" in refused.stderr
    assert fovea("train", "none", "--local").exit_code != 0
    assert jobs.list() == []


@pytest.mark.usefixtures("fake")
def test_local_job_whose_spec_does_not_fit_is_refused_at_once(fovea: Fovea, jobs: Jobs) -> None:
    """What its dataset cannot be trained with is wrong usage, and says what would do."""
    refused = fovea("train", "digits", "--local", "--architecture", "mobilenet_v2")
    assert refused.exit_code == 2
    assert "needs images of at least 32 x 32 pixels, these are 28 x 28" in refused.stderr
    assert jobs.list() == []


@pytest.mark.usefixtures("fake")
def test_pictures_that_were_left_out_are_named_before_the_training(fovea: Fovea, pictures: Path) -> None:
    """Whoever trains on a folder is told at once which of its files are not used, and what is odd about it."""
    for number in range(5):
        (pictures / "dark" / f"notes-{number}.txt").write_text("no image")
    (pictures / "light" / "twin.png").write_bytes((pictures / "dark" / "1.png").read_bytes())
    result = fovea("train", pictures, "--local")
    [added] = [line for line in result.stderr.splitlines() if line.startswith("Added")]
    assert "as dataset holiday-pictures: 21 images in 2 classes; 5 files left out: dark/notes-0.txt (" in added
    assert "notes-2.txt" in added
    assert "notes-3.txt" not in added
    assert added.endswith(", and 2 more.")
    assert "Warning: Images that occur several times under different labels: 1." in result.stderr


def test_summary_has_what_the_data_warn_of(fovea: Fovea, jobs: Jobs) -> None:
    """A result that may mislead says so where its accuracy is read, on a terminal too, where no line stays."""
    job = jobs.submit(TrainingSpec(dataset="digits"))
    warnings = ["No image of 'star' is left to validate on."]
    job.write_result(
        JobResult(model="digits", version=1, metrics={}, promoted=False, promotion_reason="manual", warnings=warnings)
    )
    job.write_state(job.state().model_copy(update={"state": "succeeded", "attempt": 1}))
    lines = fovea("jobs", "follow", job.id, "--local").stdout.splitlines()
    assert lines[:2] == ["Trained digits version 1.", f"Warning:  {warnings[0]}"]


def test_failed_job_ends_with_its_reason(fovea: Fovea, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that failed makes the status 1, and its reason is printed."""
    monkeypatch.setattr(real, "LocalProcess", lambda _: local_process(die="at_start"))
    result = fovea("train", "digits", "--local")
    assert result.exit_code == 1
    assert "failed: The trainer died 3 times in a row" in result.stderr
    assert "No module named tensorflow" in result.stderr


def test_interrupted_local_job_is_cancelled(jobs: Jobs) -> None:
    """Without a server nobody would look after the job: Ctrl-C cancels it, and the status is 1."""
    process = start(
        "train", "digits", "--local", code=_FAKED.format(seconds=0.05), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    wait_until(lambda: bool(jobs.list()) and jobs.document(jobs.list()[0].id).epoch is not None, "an epoch")
    process.send_signal(signal.SIGINT)
    lines, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert lines.count(b"epoch 1/400 ") == 1
    assert b"cancelled: Cancelled on request." in errors
    assert jobs.list()[0].state().state == "cancelled"


def test_every_network_can_be_asked_for_by_name() -> None:
    """`--architecture` offers what a spec may have, and nothing else."""
    names = [get_args(model.model_fields["name"].annotation) for model in get_args(Architecture)]
    assert [name for group in names for name in group] == list(ARCHITECTURES)


@pytest.mark.usefixtures("fake")
def test_spec_file_gives_all_fields_and_options_win(fovea: Fovea, jobs: Jobs, tmp_path: Path) -> None:
    """A spec file may ask for anything; what the command line says goes before it."""
    file = tmp_path / "spec.json"
    file.write_text(
        json.dumps(
            {
                "dataset": "digits",
                "epochs": 9,
                "batch_size": 16,
                "architecture": {"name": "simple_cnn", "filters": [8, 8]},
                "splits": {"validation": 0.2, "test": 0.2},
            }
        )
    )
    options = ["--epochs", 2, "--seed", 5, "--learning-rate", 0.01, "--architecture", "simple_cnn"]
    result = fovea("train", "--spec", file, *options, "--local")
    assert result.exit_code == 0, result.output
    spec = jobs.list()[0].spec()
    assert (spec.dataset, spec.epochs, spec.batch_size, spec.seed, spec.learning_rate) == ("digits", 2, 16, 5, 0.01)
    assert isinstance(spec.architecture, SimpleCNN)
    assert spec.architecture.filters == (8, 8)
    assert spec.splits.test == 0.2
    assert fovea("train", "shapes", "--spec", file, "--architecture", "resnet_small", "--local").exit_code == 0
    other = jobs.list()[0].spec()
    assert other.dataset == "shapes"
    assert other.architecture is not None
    assert other.architecture.name == "resnet_small"


@pytest.mark.usefixtures("fake")
def test_search_file_is_part_of_the_spec_and_its_trials_are_listed(fovea: Fovea, jobs: Jobs, tmp_path: Path) -> None:
    """`--search FILE` asks for a search; `fovea jobs trials` lists what it tried, the best first."""
    file = tmp_path / "search.json"
    file.write_text(json.dumps({"method": "grid", "space": {"learning_rate": [0.001, 0.01]}}))
    assert fovea("train", "digits", "--search", file, "--local").exit_code == 0
    job = jobs.list()[0]
    tried(job, {"learning_rate": 0.001}, {"learning_rate": 0.01})
    listed = fovea("jobs", "trials", job.id, "--local")
    assert listed.exit_code == 0, listed.output
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["TRIAL", "2", "1"]
    assert listed.stdout.splitlines()[0].endswith("LEARNING_RATE")
    waiting = TrialFolder.create(job, 3, {"learning_rate": 0.1}, job.spec())
    waiting.write_placement(Placement(scheduler="Ray", submission="x-0003", attempt=1, asked_for="2 cores", at=now()))
    listed = fovea("jobs", "trials", job.id, "--local")
    assert listed.stdout.splitlines()[-1] == "Trial 3 waits at Ray for 2 cores, as x-0003."

    assert fovea("train", "digits", "--local").exit_code == 0
    assert "searches for nothing" in fovea("jobs", "trials", jobs.list()[0].id, "--local").stderr


def test_lines_tell_of_trials(jobs: Jobs, capsys: pytest.CaptureFixture[str]) -> None:
    """While a job searches, its messages are shown as they are, with the time left."""
    job = jobs.submit(TrainingSpec(dataset="digits"))
    job.write_state(job.state().model_copy(update={"state": "running", "attempt": 1}))
    line = {"at": now(), "attempt": 1, "phase": "search", "trial": 2, "trials": 6, "remaining_seconds": 125}
    job.append(Progress.model_validate({**line, "message": "trial 2 of 6: validation accuracy 0.9"}))
    document = jobs.document(job.id)
    assert (document.trial, document.trials) == (2, 6)
    with following.showing() as view:
        view.show(News(document, job.progress_after(0)))
    assert re.fullmatch(r"trial 2 of 6: validation accuracy 0\.9; 2 min [345] s left\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name a DATASET"),
        (("nothing",), "workspace (FOVEA_WORKSPACE). Datasets: digits, shapes; or"),
        (("./nothing",), "There is no file or folder './nothing'"),
        (("digits", "--name", "x"), "--name is for one that is added from a path"),
        (("digits", "--epochs", 0), "epochs: must be a whole number, at least 1 and at most 10,000."),
        (("digits", "--model", "A B"), "model: "),
        (("digits", "--detach"), "drop --server and --detach"),
        (("digits", "--server", "http://x"), "drop --server and --detach"),
        (("digits", "--spec", "{path}/list.json"), "holds no JSON object"),
        (("digits", "--spec", "{path}/broken.json"), "is not JSON"),
        (("digits", "--search", "{path}/extra.json"), "search.depth: There is no such field. Allowed: method, space,"),
        (("digits", "--spec", "{path}/extra.json"), "depth: There is no such field. Allowed: dataset, model,"),
    ],
)
@pytest.mark.usefixtures("fake")
def test_wrong_usage_is_status_2_and_submits_nothing(
    fovea: Fovea, jobs: Jobs, tmp_path: Path, arguments: tuple[object, ...], message: str
) -> None:
    """What cannot be meant is told in a sentence before anything is uploaded or queued."""
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "extra.json").write_text('{"depth": 3}')
    result = fovea("train", *(str(argument).format(path=tmp_path) for argument in arguments), "--local")
    assert result.exit_code == 2
    assert message in result.stderr
    assert jobs.list() == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"epoch": 3}, "There is no such field. Allowed: dataset, model, shapes"),
        ({"architecture": {"name": "simple_cnn", "widht": 1}}, "simple_cnn.widht: There is no such field. Allowed"),
        ({"architecture": {"name": "vgg"}}, "architecture: "),
        ({"precisions": ["bf17"]}, "precisions.0: "),
        ({"search": {"space": {"warmup": {"low": 0, "hihg": 1}}, "trials": 1}}, "Allowed: low, high, log, step"),
        ({"model": "A B"}, "'A B' is not a valid model name. Allowed: 1 to 63 characters"),
        ({"seed": -1, "epochs": 0, "warmup": 2, "momentum": 1, "schedule": "steps"}, "; and 2 more."),
    ],
)
@pytest.mark.usefixtures("fake")
def test_wrong_spec_is_told_in_the_words_of_the_api(
    fovea: Fovea, server: Server, tmp_path: Path, wrong: dict[str, Any], told: str
) -> None:
    """Which field is wrong, why and what is allowed: the same sentence, whoever is given the spec."""
    (tmp_path / "spec.json").write_text(json.dumps({"dataset": "digits"} | wrong))
    refused = server.client.post("/api/v1/training-jobs", json={"dataset": "digits"} | wrong)
    detail = refused.json()["detail"].replace("body.", "").rstrip(".")
    assert told in f"{detail}."
    result = fovea("train", "--spec", tmp_path / "spec.json", "--local")
    assert result.exit_code == 2
    assert result.stderr == f"Error: The training spec is wrong. {detail}.\n"


@pytest.mark.parametrize(
    ("columns", "scores"), [(150, r"loss \S+  accuracy \d\.\d{4}  validation \d\.\d{4}"), (80, r"validation \d\.\d{4}")]
)
def test_terminal_shows_a_bar(jobs: Jobs, columns: int, scores: str) -> None:
    """On a terminal progress is one line that moves: epoch, bar, scores and time left; on a narrow one too."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": str(columns)}
    process = start(
        "train",
        "digits",
        "--local",
        code=_FAKED.format(seconds=0.005),
        stdout=follower,
        stderr=follower,
        env=environment,
    )
    os.close(follower)
    output = b""
    while True:
        try:
            output += os.read(leader, 65536)
        except OSError:  # the terminal is gone with the last who had it open
            break
    os.close(leader)
    assert process.wait() == 0
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", output.decode())
    assert re.search(rf"epoch \d+/400 [━╸╺]{{20,}} {scores}  (1 min )?\d+ s left +\d:\d\d:\d\d", shown)
    assert "Trained digits version 1" in shown
