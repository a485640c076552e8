"""Which executor the settings ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.jobs.executors.choice import make_executor, make_trial_launcher
from app.jobs.executors.local_process import LocalProcess
from app.jobs.executors.own_place import OwnPlaceFirst
from app.jobs.executors.ray_job import RayJob
from app.jobs.jobs import Jobs
from app.settings import Settings
from tests.jobs.conftest import SPEC, wait_until


@pytest.mark.parametrize("executor", ["local", "none"])
def test_jobs_run_on_this_machine_unless_ray_is_asked_for(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker runs jobs that servers only queue; and an address alone, which other programs need, asks for nothing."""
    monkeypatch.setenv("FOVEA_EXECUTOR", executor)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert isinstance(make_executor(Settings()), LocalProcess)


def test_ray_is_found_by_the_variable_that_its_own_programs_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RAY_ADDRESS`, unless `FOVEA_RAY_ADDRESS` says another; on a node the first is Ray's own, and no HTTP address."""
    monkeypatch.setenv("FOVEA_EXECUTOR", "ray")
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    executor = make_executor(Settings())
    assert isinstance(executor, RayJob)
    assert executor.capacity > 1
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("FOVEA_RAY_ADDRESS", "http://head:8265")
    assert isinstance(make_executor(Settings()), RayJob)


def test_trials_run_where_jobs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a search on Ray have the place of its job, and others that Ray finds."""
    assert isinstance(make_trial_launcher(Settings(), threads=2, parallel=2, tell=print), LocalProcess)
    monkeypatch.setenv("FOVEA_EXECUTOR", "ray")
    monkeypatch.setenv("FOVEA_RAY_ADDRESS", "http://head:8265")
    assert isinstance(make_trial_launcher(Settings(), threads=2, parallel=2, tell=print), OwnPlaceFirst)


@pytest.mark.parametrize(("executor", "threads"), [("local", "2"), ("ray", "6")])
def test_trials_share_the_threads_where_they_share_the_place(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, executor: str, threads: str
) -> None:
    """On Ray only one trial has the place of its job, and all that is set aside for that."""
    monkeypatch.setenv("FOVEA_EXECUTOR", executor)
    monkeypatch.setenv("FOVEA_RAY_ADDRESS", "http://head:8265")
    job = jobs.submit(SPEC)
    module = "tests.jobs.executors.told_threads"
    launcher = make_trial_launcher(Settings(), threads=6, parallel=3, tell=print, module=module)
    launcher.launch(job)
    wait_until(lambda: not launcher.alive(job), "its end")
    assert (job.path / "log.txt").read_text().strip() == threads


@pytest.mark.parametrize("address", ["http://ann:s3cret@head:8265", "http://s3cret@head:8265", "ray://a:s3cret@head"])
def test_address_with_a_password_is_refused_without_being_shown(address: str, tmp_path: Path) -> None:
    """Trainers get it as a variable, which Ray's dashboard shows."""
    settings = Settings(executor="ray", ray_address=address, workspace=tmp_path)
    for refused in (settings.check, lambda: make_executor(settings)):
        with pytest.raises(ConfigurationError, match="set RAY_AUTH_TOKEN") as caught:
            refused()
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("address", [None, "head:6379", "ray://head:10001", "auto", "http://", "http://["])
def test_missing_or_other_address_is_refused_with_what_is_allowed(address: str | None, tmp_path: Path) -> None:
    """Ray has several ports; the one that takes jobs is that of the dashboard."""
    settings = Settings(executor="ray", ray_address=address, workspace=tmp_path)
    for refused in (settings.check, lambda: make_executor(settings)):
        with pytest.raises(ConfigurationError, match="dashboard, like http://head:8265"):
            refused()
