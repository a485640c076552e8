"""No job is lost, run twice or left running for ever, whoever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest

from app.jobs.executors.base import Exit
from app.jobs.executors.fake import Fake
from app.jobs.executors.local_process import LocalProcess
from app.jobs.folder import JobFolder, JobResult, JobState, Progress, now
from app.jobs.jobs import Jobs
from app.jobs.supervisor import Supervisor
from tests.jobs.conftest import SPEC, local_process, runs, supervise, wait_for, wait_until


def start_supervisor(jobs: Jobs, **stand_in: str) -> subprocess.Popen[bytes]:
    """A supervisor in a process of its own."""
    variables = {f"STAND_IN_{name.upper()}": value for name, value in stand_in.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.supervisor_process", str(jobs.root)], env={**os.environ, **variables}
    )


def kill_trainer(job: JobFolder) -> int:
    """`kill -9` to the trainer at work on `job`; returns its number."""
    pid = job.holder
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def begin(job: JobFolder, attempt: int) -> None:
    """Bring a job into the state in which a trainer that died has left it."""
    job.write_state(job.state().model_copy(update={"state": "running", "attempt": attempt, "started_at": now()}))


def epoch_done(jobs: Jobs, job: JobFolder, number: int) -> bool:
    return (jobs.document(job.id).epoch or 0) >= number


def test_killed_trainer_resumes_where_it_stopped(jobs: Jobs) -> None:
    """`kill -9` of a trainer: the next one goes on from the checkpoint, and the job succeeds."""
    job = jobs.submit(SPEC)
    with supervise(jobs, local_process(epochs="6", hold_after="2")):
        wait_until(lambda: epoch_done(jobs, job, 2), "two epochs")
        kill_trainer(job)
        wait_for(job, "succeeded")
    document = jobs.document(job.id)
    assert document.attempt == 2
    assert [line.epoch for line in document.history] == [1, 2, 3, 4, 5, 6]
    assert {line.attempt for line in document.history} == {1, 2}


def test_trainer_that_dies_again_and_again_fails_its_job_with_the_reason(jobs: Jobs) -> None:
    """After three deaths in a row without a checkpoint the job has failed, saying how and with the log's end."""
    job = jobs.submit(SPEC)
    following = jobs.submit(SPEC)
    with supervise(jobs, local_process(die="in_first_epoch")):
        wait_for(job, "failed")
        wait_for(following, "failed")
    state = job.state()
    assert state.attempt == 3
    assert state.reason is not None
    assert "died 3 times in a row" in state.reason
    assert "SIGKILL (perhaps out of memory). If it was memory: " in state.reason
    assert "use a smaller batch_size" in state.reason
    assert "trainer " in state.reason.split("The end of its log:")[1]
    assert runs(jobs) == [job.id] * 3 + [following.id] * 3


def test_trainer_that_dies_before_it_begins_fails_its_job(jobs: Jobs) -> None:
    """A trainer that cannot even start (an import that is missing) is not tried for ever."""
    job = jobs.submit(SPEC)
    with supervise(jobs, local_process(die="at_start")):
        wait_for(job, "failed")
    state = job.state()
    assert state.attempt == 3
    assert "exit status 1" in (state.reason or "")
    assert "No module named tensorflow" in (state.reason or "")
    assert "memory" not in (state.reason or "")


def test_trainer_that_cannot_be_launched_fails_its_job(jobs: Jobs) -> None:
    """When no process can be started at all, the job says so."""
    job = jobs.submit(SPEC)
    with supervise(jobs, LocalProcess({}, command=["/nonexistent/python"])):
        wait_for(job, "failed")
    assert "could not be started: No such file or directory" in (job.state().reason or "")


@pytest.mark.parametrize(
    "progress", [{"epoch": 1, "epochs": 2}, {"step": 700, "steps": 9000}, {"trial": 2}, {"trial": 0}]
)
def test_interruptions_of_a_job_that_gets_on_are_not_held_against_it(jobs: Jobs, progress: dict[str, int]) -> None:
    """A long job whose trainer was killed often, by restarts of the machine, goes on as long as it gets further."""
    job = jobs.submit(SPEC)
    begin(job, attempt=9)
    (job.path / "checkpoint").write_text("1")
    job.append(Progress.model_validate({"at": now(), "attempt": 8, "phase": "fit", **progress}))
    with supervise(jobs, local_process(epochs="2")):
        wait_for(job, "succeeded")
    assert job.state().attempt == 10


def test_job_that_was_dying_under_another_supervisor_is_not_tried_anew(jobs: Jobs) -> None:
    """Deaths are counted across restarts of the server."""
    job = jobs.submit(SPEC)
    begin(job, attempt=3)
    with supervise(jobs, local_process()):
        wait_for(job, "failed")
    assert job.state().reason == "The trainer died 3 times in a row without getting to a checkpoint. It wrote no log."
    assert runs(jobs) == []


def test_trainer_killed_between_result_and_state_has_succeeded(jobs: Jobs) -> None:
    """When the result was written, the version is registered: nothing is trained again."""
    job = jobs.submit(SPEC)
    begin(job, attempt=1)
    job.write_result(JobResult(model="digits", version=1, metrics={}, promoted=False, promotion_reason="manual"))
    with supervise(jobs, local_process()):
        wait_for(job, "succeeded")
    assert runs(jobs) == []


def test_deaf_trainer_is_killed_and_its_job_cancelled(jobs: Jobs) -> None:
    """A trainer that sees neither the marker nor SIGTERM is killed after the grace period."""
    job = jobs.submit(SPEC)
    with supervise(jobs, local_process(deaf="1"), grace=0.2):
        wait_for(job, "running")
        jobs.cancel(job.id)
        wait_for(job, "cancelled")
    assert job.state().reason == "Cancelled on request."
    assert not job.alive


def test_deaf_trainer_that_was_adopted_is_killed_too(jobs: Jobs) -> None:
    """Cancelling works as well for a trainer that another, dead, process has launched."""
    job = jobs.submit(SPEC)
    launcher = start_supervisor(jobs, deaf="1")
    wait_for(job, "running")
    launcher.kill()
    launcher.wait()
    jobs.cancel(job.id)
    with supervise(jobs, local_process(), grace=0.2):
        wait_for(job, "cancelled")
    assert not job.alive


def test_cancelled_job_whose_trainer_died_is_cancelled_and_not_resumed(jobs: Jobs) -> None:
    """A trainer that is killed with the marker set ends its job as cancelled."""
    job = jobs.submit(SPEC)
    begin(job, attempt=1)
    job.request_cancel()
    with supervise(jobs, local_process()):
        wait_for(job, "cancelled")
    assert runs(jobs) == []


def test_trainer_that_exports_is_left_to_finish_though_it_was_to_stop(jobs: Jobs) -> None:
    """A request to stop that the trainer saw too late does not kill it while its version comes into being."""
    job = jobs.submit(SPEC)
    with supervise(jobs, local_process(epochs="1", hold_export="1"), grace=0.1, kill_grace=0.1):
        wait_until(lambda: job.export_begun, "the export")
        job.request_cancel()
        time.sleep(0.6)  # thirty looks of the supervisor, long past the grace
        (jobs.root / "go").touch()
        wait_for(job, "succeeded")
    assert job.state().attempt == 1


def test_trainer_that_died_exporting_is_resumed_though_it_was_to_stop(jobs: Jobs) -> None:
    """The version may be registered already: the next attempt finds out, and the job does not say cancelled."""
    job = jobs.submit(SPEC)
    begin(job, attempt=1)
    job.append(Progress(at=now(), attempt=1, phase="export"))
    job.request_cancel()
    with supervise(jobs, local_process()):
        wait_for(job, "succeeded", "cancelled")
    assert job.state().state == "succeeded"
    assert runs(jobs) == [job.id]


def test_trainer_outlives_a_killed_supervisor_and_is_adopted(jobs: Jobs) -> None:
    """`kill -9` of the server: the trainer goes on, the next server adopts it, and nothing is trained twice."""
    job = jobs.submit(SPEC)
    following = jobs.submit(SPEC)
    first = start_supervisor(jobs, epochs="8", hold_after="1")
    wait_until(lambda: epoch_done(jobs, job, 1), "an epoch")
    first.kill()
    first.wait()
    trainer = job.holder
    assert job.alive
    with supervise(jobs, local_process(epochs="1")):
        time.sleep(0.2)
        assert following.state().state == "queued"
        (jobs.root / "go").touch()
        wait_for(job, "succeeded")
        assert job.holder == trainer
        wait_for(following, "succeeded")
    assert job.state().attempt == 1
    assert runs(jobs) == [job.id, following.id]


def test_trainer_that_lingers_after_its_last_word_is_ended_and_the_next_waits(jobs: Jobs) -> None:
    """A trainer that has written its end but does not exit keeps its place until it is made to give it up."""
    job = jobs.submit(SPEC)
    following = jobs.submit(SPEC)
    executor = local_process(epochs="1", linger="1")
    with supervise(jobs, executor, grace=0.5):
        wait_for(following, "succeeded")
        ended, begun = job.state().finished_at, following.state().started_at
        assert ended is not None
        assert begun is not None
        assert (begun - ended).total_seconds() >= 0.5
        wait_until(lambda: not executor.alive(following), "the second trainer to be ended")
    assert jobs.counts()["succeeded"] == 2


def test_job_is_resumed_when_supervisor_and_trainer_were_both_killed(jobs: Jobs) -> None:
    """When the whole machine goes down the job goes on at the next start."""
    job = jobs.submit(SPEC)
    first = start_supervisor(jobs, epochs="8", hold_after="1")
    wait_until(lambda: epoch_done(jobs, job, 1), "an epoch")
    first.kill()
    first.wait()
    kill_trainer(job)
    with supervise(jobs, local_process(epochs="3")):
        wait_for(job, "succeeded")
    assert job.state().attempt == 2


def test_two_supervisors_on_a_workspace_run_each_job_once(jobs: Jobs) -> None:
    """Several servers on one workspace: each job runs exactly once, and one trainer at a time."""
    supervisors = [start_supervisor(jobs, epochs="1") for _ in range(2)]
    try:
        queue = [jobs.submit(SPEC) for _ in range(6)]
        for job in queue:
            wait_for(job, "succeeded")
    finally:
        for process in supervisors:
            process.kill()
            process.wait()
    assert runs(jobs) == [job.id for job in queue]
    spans = [(job.state().started_at, job.state().finished_at) for job in queue]
    for (_, ended), (started, _) in pairwise(spans):
        assert ended is not None
        assert started is not None
        assert ended <= started


class _Recording(Fake):
    """An executor that remembers what it launched."""

    def __init__(self) -> None:
        super().__init__(epochs=1)
        self.launched: list[str] = []

    def launch(self, job: JobFolder) -> None:
        self.launched.append(job.id)
        super().launch(job)


def test_standby_launches_nothing_while_another_leads(jobs: Jobs) -> None:
    """While one supervisor leads, another on the same workspace does not even try."""
    leading, standing_by = _Recording(), _Recording()
    with supervise(jobs, leading):
        wait_for(jobs.submit(SPEC), "succeeded")
        with supervise(jobs, standing_by):
            queue = [jobs.submit(SPEC) for _ in range(10)]
            wait_for(queue[-1], "succeeded")
    assert standing_by.launched == []
    assert len(leading.launched) == 11


def test_standby_takes_over_when_the_leader_is_killed(jobs: Jobs) -> None:
    """A supervisor that stood by goes on when the one that led dies."""
    leader = start_supervisor(jobs, epochs="1")
    wait_for(jobs.submit(SPEC), "succeeded")
    with supervise(jobs, local_process(epochs="1")):
        leader.kill()
        leader.wait()
        wait_for(jobs.submit(SPEC), "succeeded")


def test_stopped_supervisor_leaves_the_trainer_at_work(jobs: Jobs) -> None:
    """A server that stops in good order leaves the training to the next one."""
    job = jobs.submit(SPEC)
    executor = local_process(seconds="600")
    with supervise(jobs, executor):
        wait_for(job, "running")
    assert job.alive
    executor.end(job, force=True)
    wait_until(lambda: not executor.alive(job), "the trainer to end")


def test_end_of_each_job_is_logged_in_a_line(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    """The log says what came of a job: the version and whether it was promoted, or why there is none."""
    good, unwanted, bad = (jobs.submit(SPEC) for _ in range(3))
    begin(bad, 3)
    (bad.path / "log.txt").write_text("Traceback\n")
    caplog.set_level("INFO", "app.jobs.supervisor")
    ends = [
        (good, "succeeded, digits version 1, accuracy 0.8750, not promoted (The promotion policy is manual)"),
        (unwanted, "cancelled: Cancelled before it began."),
        (bad, "failed: The trainer died 3 times in a row without getting to a checkpoint."),
    ]
    with supervise(jobs, Fake(epochs=3, seconds=0.2)):
        wait_for(good, "running")
        jobs.cancel(unwanted.id)
        wait_until(lambda: all(f"{job.id}: {end}" in caplog.text for job, end in ends), "a line for each")
    for job, end in ends:
        assert caplog.messages.count(f"Training job {job.id}: {end}") == 1


def test_unreadable_job_does_not_stop_the_others(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    """One job whose files are spoilt is reported; the others run."""
    spoilt = jobs.submit(SPEC)
    begin(spoilt, attempt=1)
    (spoilt.path / "result.json").write_text("{")
    job = jobs.submit(SPEC)
    with supervise(jobs, Fake()):
        wait_for(job, "succeeded")
    assert caplog.text.count(f"Training job {spoilt.id} could not be looked after.") == 1


def test_full_disk_stops_neither_supervisor_nor_queue(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While the workspace cannot be read the supervisor goes on trying, and works again when it can."""
    job = jobs.submit(SPEC)
    states = Jobs.states
    failures = iter([True, True])

    def sometimes(self: Jobs) -> object:
        if next(failures, False):
            raise OSError(5, "Input/output error")
        return states(self)

    monkeypatch.setattr(Jobs, "states", sometimes)
    with supervise(jobs, Fake()):
        wait_for(job, "succeeded")
    assert "cannot be looked after; trying again" in caplog.text


class _Clock(threading.Event):
    """Notes how long the supervisor would pause, and ends it after so many pauses."""

    def __init__(self, pauses: int) -> None:
        super().__init__()
        self.left = pauses
        self.pauses: list[float | None] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.pauses.append(timeout)
        self.left -= 1
        if self.left == 0:
            self.set()
        return self.is_set()


def test_workspace_that_stays_unreadable_is_told_once_and_tried_ever_less_often(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A full or missing disk fills no log: each new reason is logged once, and tries come up to 30 s apart."""
    reasons = iter([*["Input/output error"] * 8, "No space left on device", None, "Input/output error"])

    def failing(self: Jobs) -> dict[str, JobState]:
        if (reason := next(reasons)) is not None:
            raise OSError(5, reason)
        return {}

    monkeypatch.setattr(Jobs, "states", failing)
    clock = _Clock(11)
    Supervisor(jobs, Fake(), poll=0.5).run(clock)
    assert clock.pauses == [1, 2, 4, 8, 16, 30, 30, 30, 30, 0.5, 1]
    told = [str(record.exc_info[1]) for record in caplog.records if record.exc_info]
    assert [reason.partition("] ")[2] for reason in told] == [
        "Input/output error",
        "No space left on device",
        "Input/output error",
    ]


class _Refused(Fake):
    """An executor whose first trainer finds the job taken."""

    refusals = 1

    def launch(self, job: JobFolder) -> None:
        if self.refusals == 0:
            super().launch(job)

    def collect(self, job: JobFolder) -> Exit | None:
        if self.refusals:
            self.refusals -= 1
            return Exit("found the job taken", refused=True)
        return super().collect(job)


def test_trainer_that_found_the_job_taken_counts_as_no_attempt(jobs: Jobs) -> None:
    """Losing the race for a job's lock is no death."""
    job = jobs.submit(SPEC)
    with supervise(jobs, _Refused()):
        wait_for(job, "succeeded")
    assert job.state().attempt == 1


def test_leader_removes_debris(tmp_path: Path) -> None:
    """Whoever begins to lead clears away what dead submissions have left."""
    jobs = Jobs(tmp_path)
    debris = tmp_path / ".new-dead"
    debris.mkdir()
    os.utime(debris, (0, 0))
    with Supervisor(jobs, Fake(), poll=0.02).running():
        wait_until(lambda: not debris.exists(), "the debris to go")
    assert jobs.list() == []
