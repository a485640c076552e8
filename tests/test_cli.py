"""The command itself: quick to start, complete help, plain errors; and `fovea worker`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from app.api.errors import kind_of
from app.cli import main
from app.commands.environment import exit_status
from app.commands.remote import INPUT
from app.errors import FoveaError, NotExplainable, VersionRefused
from app.jobs.folder import JobState, now
from app.jobs.jobs import Jobs
from app.jobs.spec import TrainingSpec
from tests.jobs.conftest import wait_for, wait_until


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All commands below a group, with the words that call them."""
    for name, command in group.commands.items():
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = [pytest.param(command, id=" ".join(path)) for path, command in commands(main)]


@pytest.mark.parametrize("command", ALL)
def test_every_command_and_option_is_explained(command: click.Command) -> None:
    """`--help` says what each command does and what each of its options means."""
    assert command.help
    assert command.get_short_help_str(limit=60).endswith(".")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not isinstance(parameter.type, click.Choice):
            assert parameter.help, parameter.name


def test_documentation_names_every_command() -> None:
    """docs/cli.md has a section on each command, and on each exit status."""
    text = (Path(__file__).parent.parent / "docs" / "cli.md").read_text("utf-8")
    for path, command in commands(main):
        assert f"`fovea {' '.join(path)}" in text, path
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert max(parameter.opts, key=len) in text, f"{' '.join(path)} {parameter.opts}"
    for status in range(4):
        assert f"| {status} |" in text


def _kinds(kind: type[FoveaError]) -> Iterator[type[FoveaError]]:
    for inner in kind.__subclasses__():
        yield inner
        yield from _kinds(inner)


def test_exit_status_is_one_rule_whoever_finds_out() -> None:
    """What a server answers with a status of wrong input ends the command with 2, and so does the same found here.

    Versions that fail their checks, or cannot be looked into, are no input of a command.
    """
    for kind in {*_kinds(FoveaError)} - {VersionRefused, NotExplainable}:
        error = kind.__new__(kind)
        if kind.__module__ == "app.errors" and kind.code != "configuration_error":
            assert (exit_status(error) == 2) == (kind_of(kind).status in INPUT), kind


def test_help_loads_nothing_heavy() -> None:
    """The command is there at once: nothing but click is loaded before a command runs."""
    code = (
        "import sys; from app.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'tensorflow', 'keras', 'openvino', 'numpy', 'fastapi', 'pydantic', 'httpx', 'rich'}\n"
        "print('loaded:', *sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.stderr == ""
    assert ended.stdout.splitlines()[-1] == "loaded:"


def test_version_is_told() -> None:
    """`fovea --version` names the version."""
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("fovea, version 0.")


def test_settings_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable with a value that cannot be is named, in one sentence, with exit status 2."""
    monkeypatch.setenv("FOVEA_PORT", "http")
    result = CliRunner().invoke(main, ["datasets", "list"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: FOVEA_PORT: ")
    assert "Traceback" not in result.output


def test_serving_strangers_without_keys_is_refused() -> None:
    """`fovea serve` on an address that others reach, without keys, ends with status 2 and says the way out."""
    result = CliRunner().invoke(main, ["serve", "--host", "0.0.0.0"])
    assert result.exit_code == 2
    assert "Refusing to listen on 0.0.0.0 without API keys" in result.stderr


def test_disk_that_refuses_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is no traceback."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOVEA_WORKSPACE", str(tmp_path / "file" / "below"))
    result = CliRunner().invoke(main, ["train", "digits", "--local"])
    assert result.exit_code == 1
    assert "Not a directory" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_worker_runs_the_queue_until_it_is_told_to_stop(tmp_path: Path) -> None:
    """`fovea worker` works without a server, and ends with status 0 on SIGTERM."""
    jobs = Jobs(tmp_path / "workspace" / "jobs")
    job = jobs.submit(TrainingSpec(dataset="digits"))
    # Three deaths are on record already: whoever sees to the queue says so, and no trainer need be started.
    job.write_state(JobState(state="running", attempt=3, submitted_at=now()))
    environment = {**os.environ, "FOVEA_WORKSPACE": str(tmp_path / "workspace"), "FOVEA_EXECUTOR": "none"}
    worker = subprocess.Popen([sys.executable, "-m", "app.cli", "worker"], env=environment, stderr=subprocess.PIPE)
    try:
        wait_for(job, "failed")
        cancelled = jobs.submit(TrainingSpec(dataset="digits"))
        jobs.cancel(cancelled.id)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)
    finally:
        worker.kill()
        worker.wait()
    assert worker.returncode == 0
    assert b"Running the training jobs" in log


def test_worker_that_stands_by_stops_too(tmp_path: Path) -> None:
    """SIGTERM ends a worker that waits for another to die as well."""
    environment = {**os.environ, "FOVEA_WORKSPACE": str(tmp_path)}
    command = [sys.executable, "-m", "app.cli", "worker"]
    with (tmp_path / "log").open("wb") as log:
        leader = subprocess.Popen(command, env=environment, stderr=log)
        try:
            wait_until(lambda: b"Running the training jobs" in (tmp_path / "log").read_bytes(), "a leader")
            standby = subprocess.Popen(command, env=environment, stderr=log)
            try:
                wait_until(lambda: _handles_sigterm(standby.pid), "the handler")
                standby.send_signal(signal.SIGTERM)
                assert standby.wait(30) == 0
            finally:
                standby.kill()
                standby.wait()
        finally:
            leader.kill()
            leader.wait()


def _handles_sigterm(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        pytest.skip("reads /proc")
    caught = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(caught >> (signal.SIGTERM - 1) & 1)
