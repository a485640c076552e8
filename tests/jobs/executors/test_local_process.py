"""The local executor: real processes, in a session and at a priority of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.errors import TrainingFailed
from app.jobs.executors.base import Exit
from app.jobs.executors.local_process import LocalProcess, trainer_environment
from app.jobs.folder import JobFolder
from app.jobs.jobs import Jobs
from app.settings import Settings
from tests.jobs.conftest import SPEC, local_process, wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def _pid(job: JobFolder) -> int:
    assert job.holder is not None
    return job.holder


def _collect(executor: LocalProcess, job: JobFolder) -> Exit | None:
    wait_until(lambda: not executor.alive(job), "the trainer to end")
    return executor.collect(job)


def test_output_of_every_attempt_is_in_the_log(jobs: Jobs) -> None:
    """What trainers print is appended to the job's log, attempt after attempt."""
    job = jobs.submit(SPEC)
    executor = local_process(die="at_start")
    for _ in range(2):
        executor.launch(job)
        assert _collect(executor, job) == Exit("ended with exit status 1")
    assert jobs.log(job.id).count("No module named tensorflow\n") == 2


def test_exit_is_told_once(jobs: Jobs) -> None:
    """How a trainer ended is told to who asks first, and not again."""
    job = jobs.submit(SPEC)
    executor = local_process(die="in_first_epoch")
    executor.launch(job)
    assert _collect(executor, job) == Exit("was killed by SIGKILL (perhaps out of memory)")
    assert executor.collect(job) is None


def test_second_trainer_of_a_job_is_refused(jobs: Jobs) -> None:
    """A trainer that finds the job taken does nothing, and its exit says that it was not at fault."""
    job = jobs.submit(SPEC)
    executor = local_process()
    with job.hold():
        executor.launch(job)
        endings: list[Exit] = []

        def ended() -> bool:
            assert executor.alive(job)  # somebody is at work on it, all the time
            endings.extend(filter(None, [executor.collect(job)]))
            return bool(endings)

        wait_until(ended, "the second trainer to end")
    assert endings == [Exit("found the job taken", refused=True)]
    assert job.state().attempt == 0


def test_program_that_cannot_be_started_is_named(jobs: Jobs) -> None:
    """A command that does not exist fails the launch with the system's reason."""
    job = jobs.submit(SPEC)
    with pytest.raises(TrainingFailed, match="No such file or directory"):
        LocalProcess({}, command=["/nonexistent/python"]).launch(job)


@linux
def test_trainer_has_a_session_of_its_own_and_the_lowest_priority(jobs: Jobs) -> None:
    """The trainer survives what ends the server's session, and yields to everything else on the machine."""
    job = jobs.submit(SPEC)
    executor = local_process(lowest_priority=True, seconds="600")
    executor.launch(job)
    try:
        pid = executor._launched[job.id].pid
        assert os.getsid(pid) == pid != os.getsid(0)
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 600
    finally:
        executor.end(job, force=True)
    assert _collect(executor, job) is not None


@linux
def test_adopted_trainer_is_ended_by_its_lock(jobs: Jobs) -> None:
    """An executor that did not launch the trainer finds and ends it."""
    job = jobs.submit(SPEC)
    launcher, adopter = local_process(seconds="600"), local_process()
    launcher.launch(job)
    wait_until(lambda: job.state().state == "running", "the trainer to begin")
    assert adopter.alive(job)
    adopter.end(job, force=False)
    assert _collect(launcher, job) == Exit("was killed by SIGTERM")
    assert not adopter.alive(job)


@linux
def test_number_in_the_lock_that_belongs_to_another_process_is_left_alone(jobs: Jobs) -> None:
    """A process that only happens to have the number in the lock is never killed."""
    job = jobs.submit(SPEC)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as innocent:
        try:
            with job.hold():
                (job.path / "lock").write_text(str(innocent.pid))
                local_process().end(job, force=True)
                time.sleep(0.1)
                assert innocent.poll() is None
        finally:
            innocent.kill()


@linux
def test_what_a_dead_trainer_forked_does_not_keep_the_job(jobs: Jobs) -> None:
    """Children of a killed trainer, which share its lock, are ended with it: the job is free for the next attempt."""
    job = jobs.submit(SPEC)
    code = (
        "import os, sys, time; from pathlib import Path; from app.jobs.folder import JobFolder\n"
        "with JobFolder(Path(sys.argv[1])).hold():\n"
        "    os.fork()\n"
        "    time.sleep(600)"
    )
    executor = LocalProcess({}, command=[sys.executable, "-W", "ignore", "-c", code], lowest_priority=False)
    executor.launch(job)
    wait_until(lambda: job.holder is not None, "the trainer to take the job")
    os.kill(_pid(job), signal.SIGKILL)
    wait_until(lambda: not executor.alive(job), "the job to be free")
    assert executor.collect(job) == Exit("was killed by SIGKILL (perhaps out of memory)")


def test_trainer_gets_the_settings_of_this_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings reach the trainer whether they came from the environment or the command line; paths are absolute."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOVEA_TRAINING_THREADS", "3")
    environment = trainer_environment(Settings(workspace=Path("here"), cache=Path("there"), port=9000))
    assert environment["FOVEA_WORKSPACE"] == str(tmp_path / "here")
    assert environment["FOVEA_MODEL_STORE"] == str(tmp_path / "model_store")
    assert environment["FOVEA_CACHE"] == str(tmp_path / "there")
    assert environment["FOVEA_TRAINING_THREADS"] == "3"
    assert environment["FOVEA_PORT"] == "9000"
    assert "FOVEA_API_KEYS" not in environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Settings().workspace == tmp_path / "here"
