"""Submitting, listing and cancelling jobs, and what they look like."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Literal

import pytest

from app.errors import Conflict, JobNotFound, StorageFailed
from app.jobs.document import JobDocument, UnreadableJob
from app.jobs.folder import JobFolder, JobResult, JobState, Placement, Progress, now
from app.jobs.jobs import Jobs
from app.jobs.spec import TrainingSpec
from app.names import check_name
from tests.jobs.conftest import SPEC


def epoch(number: int, attempt: int = 1, **fields: float) -> Progress:
    return Progress(at=now(), attempt=attempt, phase="fit", epoch=number, epochs=5, **fields)


def test_submitted_job_is_queued_with_its_spec(jobs: Jobs) -> None:
    """A job that was submitted is queued, and its folder holds the spec as asked for."""
    spec = TrainingSpec(dataset="digits", epochs=7, learning_rate=0.01)
    job = jobs.submit(spec)
    assert jobs.get(job.id).spec() == spec
    assert job.state().state == "queued"
    assert job.state().attempt == 0


def test_ids_are_valid_names_and_sort_by_time(jobs: Jobs) -> None:
    """Ids are distinct, stand in a URL as they are, and sort in the order of submission."""
    ids = [jobs.submit(SPEC).id for _ in range(20)]
    assert sorted(set(ids)) == ids
    for job_id in ids:
        assert check_name(job_id, "job") == job_id
        assert re.fullmatch(r"\d{8}-\d{6}-[0-9a-f]{7}", job_id)


def test_list_is_newest_first(jobs: Jobs) -> None:
    """The list begins with the job that was submitted last."""
    assert jobs.list() == []
    ids = [jobs.submit(SPEC).id for _ in range(3)]
    assert [job.id for job in jobs.list()] == ids[::-1]


def test_many_processes_submitting_at_once_lose_no_job(jobs: Jobs) -> None:
    """Jobs that several processes submit at the same time all come into being, whole."""
    code = (
        "import sys; from pathlib import Path; from app.jobs.jobs import Jobs; from app.jobs.spec import TrainingSpec\n"
        "for _ in range(10): Jobs(Path(sys.argv[1])).submit(TrainingSpec(dataset='digits'))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, str(jobs.root)]) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert [job.spec() for job in jobs.list()] == [SPEC] * 40
    assert not list(jobs.root.glob(".*"))


def test_refused_write_leaves_no_job_and_says_why(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk is full, submission fails with that reason and leaves nothing."""

    def full(self: JobFolder, state: JobState) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(JobFolder, "write_state", full)
    with pytest.raises(StorageFailed, match="No space left on device"):
        jobs.submit(SPEC)
    assert list(jobs.root.iterdir()) == []


def test_debris_of_dead_submissions_is_removed_and_fresh_ones_are_kept(jobs: Jobs) -> None:
    """What a submission killed half-way has left is removed later; one that is under way is not touched."""
    jobs.submit(SPEC)
    old, fresh = jobs.root / ".new-old", jobs.root / ".new-fresh"
    old.mkdir()
    fresh.mkdir()
    two_hours_ago = (now() - timedelta(hours=2)).timestamp()
    os.utime(old, (two_hours_ago, two_hours_ago))
    jobs.clean()
    assert not old.exists()
    assert fresh.exists()
    assert len(jobs.list()) == 1


@pytest.mark.parametrize("job_id", ["nothing", "../jobs", "", "a/b", "x" * 200, "é", ".new-1"])
def test_unknown_or_forged_ids_are_not_found(jobs: Jobs, job_id: str) -> None:
    """An id that no job has, or that tries to leave the folder, is not found; the newest that there are, are named."""
    with pytest.raises(JobNotFound, match=r"There is no job .*, nor any"):
        jobs.get(job_id)
    older = jobs.submit(SPEC)
    newest = [jobs.submit(SPEC).id for _ in range(5)][::-1]
    with pytest.raises(JobNotFound, match=f"The newest: {', '.join(newest)}[.]$"):
        jobs.get(job_id)
    assert older.id not in newest


def test_cancelling_a_queued_job_ends_it_at_once(jobs: Jobs) -> None:
    """A job that nobody works on is cancelled when the call returns."""
    job = jobs.submit(SPEC)
    jobs.cancel(job.id)
    state = job.state()
    assert state.state == "cancelled"
    assert state.finished_at is not None
    assert state.reason == "Cancelled before it began."


def test_cancelling_a_job_at_work_leaves_a_marker(jobs: Jobs) -> None:
    """While a trainer holds the job, only the marker is set: the state is the trainer's to write."""
    job = jobs.submit(SPEC)
    with job.hold() as held:
        assert held
        jobs.cancel(job.id)
    assert job.state().state == "queued"
    assert job.cancel_requested


@pytest.mark.parametrize("final", ["succeeded", "failed", "cancelled"])
def test_cancelling_a_job_that_has_ended_is_a_conflict(jobs: Jobs, final: str) -> None:
    """What has ended stays as it ended."""
    job = jobs.submit(SPEC)
    job.write_state(JobState(state=final, submitted_at=now()))
    with pytest.raises(Conflict, match=final):
        jobs.cancel(job.id)
    assert not job.cancel_requested
    assert job.state().state == final


@pytest.mark.parametrize("phase", ["export", "register", "promote"])
@pytest.mark.parametrize("held", [True, False])
def test_cancelling_comes_too_late_once_the_export_has_begun(
    jobs: Jobs, phase: Literal["export", "register", "promote"], held: bool
) -> None:
    """A version that is coming into being is not called cancelled: the request is a conflict and leaves no marker.

    Also where the attempt that came so far has died, and the next one is at the dataset again.
    """
    job = jobs.submit(SPEC)
    job.write_state(JobState(state="running", attempt=2, submitted_at=now(), started_at=now()))
    job.append(Progress(at=now(), attempt=1, phase=phase))
    job.append(Progress(at=now(), attempt=2, phase="dataset"))
    with job.hold() if held else nullcontext(), pytest.raises(Conflict, match="too late to cancel"):
        jobs.cancel(job.id)
    assert not job.cancel_requested
    assert job.state().state == "running"


def test_counts_name_every_state(jobs: Jobs) -> None:
    """The counts follow the jobs and name states that no job is in."""
    jobs.submit(SPEC)
    cancelled = jobs.submit(SPEC)
    assert jobs.counts()["queued"] == 2
    jobs.cancel(cancelled.id)
    assert jobs.counts() == {"queued": 1, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 1}


def test_folder_that_is_no_job_is_passed_over(jobs: Jobs) -> None:
    """A stray folder or a spoilt state does not keep the other jobs from being counted."""
    jobs.submit(SPEC)
    (jobs.root / "stray").mkdir()
    spoilt = jobs.submit(SPEC)
    (spoilt.path / "state.json").write_text("{")
    assert jobs.counts()["queued"] == 1


SPOILT = [
    ("state.json", "{", "EOF while parsing"),
    ("spec.json", '{"dataset": "digits", "dropout": 1}', "dropout: there is no such field"),
    ("result.json", "{}", "model: required"),
]


@pytest.mark.parametrize(("file", "content", "why"), SPOILT)
def test_unreadable_job_is_listed_with_the_reason_and_hides_no_other(
    jobs: Jobs, file: str, content: str, why: str
) -> None:
    """A job of another release, or spoilt by hand, is told apart from the others, which are shown as ever."""
    first, spoilt, last = (jobs.submit(SPEC) for _ in range(3))
    (spoilt.path / file).write_text(content)
    listed = jobs.documents()
    assert [job.id for job in listed.jobs] == [last.id, first.id]
    [unreadable] = listed.unreadable
    assert unreadable.id == spoilt.id
    assert file in unreadable.problem
    assert why in unreadable.problem
    with pytest.raises(StorageFailed, match=f"The {file} of job {spoilt.id} is not valid here: ") as raised:
        jobs.document(spoilt.id)
    assert unreadable == UnreadableJob(id=spoilt.id, problem=str(raised.value))
    assert [job.id for job in jobs.documents(1).jobs] == [last.id]


def test_file_that_the_system_does_not_give_makes_its_job_unreadable(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the system says about a file that it does not read is told; the other jobs are counted and listed."""
    job, withheld = jobs.submit(SPEC), jobs.submit(SPEC)
    state = JobFolder.state

    def of_others(self: JobFolder) -> JobState:
        if self.id == withheld.id:
            raise PermissionError(13, "Permission denied")
        return state(self)

    monkeypatch.setattr(JobFolder, "state", of_others)
    with pytest.raises(StorageFailed, match="Permission denied"):
        jobs.document(withheld.id)
    assert jobs.counts()["queued"] == 1
    assert [listed.id for listed in jobs.documents().jobs] == [job.id]


def test_cancelling_a_job_with_a_spoilt_state_says_so(jobs: Jobs) -> None:
    """Nobody can say whether it has ended: that is told, and nothing is overwritten."""
    job = jobs.submit(SPEC)
    (job.path / "state.json").write_text("{")
    with pytest.raises(StorageFailed, match=r"state\.json"):
        jobs.cancel(job.id)
    assert (job.path / "state.json").read_text() == "{"


def test_line_after_one_that_was_cut_short_is_whole(jobs: Jobs) -> None:
    """What a crash left of a line spoils neither the lines before it nor the one after."""
    job = jobs.submit(SPEC)
    job.append(epoch(1))
    with (job.path / "progress.jsonl").open("a") as file:
        file.write('{"at": "2026')
    assert [line.epoch for line in job.progress()] == [1]
    job.append(epoch(2))
    job.append(epoch(3))
    assert [line.epoch for line in job.progress()] == [1, 2, 3]


def test_lines_keep_their_numbers_whatever_is_between_them(jobs: Jobs) -> None:
    """Who goes on after the number of the last line that it saw sees each line once, past those that are spoilt."""
    job = jobs.submit(SPEC)
    job.append(epoch(1))
    with (job.path / "progress.jsonl").open("a") as file:
        file.write('[]\n{"phase": "fit", "of another release": 1}\n\n')
    job.append(epoch(2))
    assert [(number, line.epoch) for number, line in job.progress_after(0)] == [(1, 1), (5, 2)]
    assert [(number, line.epoch) for number, line in job.progress_after(1)] == [(5, 2)]
    assert job.progress_after(5) == []
    job.append(epoch(3))
    assert [(number, line.epoch) for number, line in job.progress_after(5)] == [(6, 3)]
    assert job.progress_after(10**9) == []


def test_line_that_only_half_fits_on_the_disk_is_an_error(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line of which the system took a part only is not passed off as written."""
    job = jobs.submit(SPEC)
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:10]))
    with pytest.raises(OSError, match="only 10 of"):
        job.append(epoch(1))


def test_document_of_a_queued_job(jobs: Jobs) -> None:
    """The document of a job that has not begun says so, and nothing that is not known."""
    document = jobs.document(jobs.submit(SPEC).id)
    assert document.state == "queued"
    assert document.spec == SPEC
    assert (document.phase, document.epoch, document.remaining_seconds, document.result) == (None, None, None, None)
    assert document.epochs is None
    assert document.history == []
    assert not document.final


def test_document_of_a_running_job_shows_progress_and_time_left(jobs: Jobs) -> None:
    """The time left is the last estimate less the time that has passed since."""
    job = jobs.submit(SPEC)
    job.write_state(JobState(state="running", attempt=1, submitted_at=now(), started_at=now()))
    job.append(epoch(1, remaining_seconds=500))
    job.append(epoch(2, remaining_seconds=400).model_copy(update={"at": now() - timedelta(seconds=100)}))
    document = jobs.document(job.id)
    assert (document.phase, document.epoch, document.epochs) == ("fit", 2, 5)
    assert document.remaining_seconds == pytest.approx(300, abs=20)


def test_document_of_a_job_that_waits_at_a_cluster_says_for_what(jobs: Jobs) -> None:
    """Until a trainer has begun the attempt for which it was sent, there is no time left to tell."""
    job = jobs.submit(SPEC)
    for attempt in (1, 2):
        job.write_placement(
            Placement(scheduler="Ray", submission="j-1", attempt=attempt, asked_for="2 cores, 1 GPU", at=now())
        )
        document = jobs.document(job.id)
        assert document.phase == "queue"
        assert document.message == "waiting at Ray for 2 cores, 1 GPU, as j-1"
        assert document.remaining_seconds is None
        job.write_state(JobState(state="running", attempt=attempt, submitted_at=now(), started_at=now()))
        job.append(epoch(attempt, attempt, remaining_seconds=500).model_copy(update={"message": "an epoch"}))
        document = jobs.document(job.id)
        assert (document.phase, document.message) == ("fit", "an epoch")
        assert document.remaining_seconds is not None
    job.write_placement(Placement(scheduler="Ray", submission="j-3", attempt=3, asked_for="1 core", at=now()))
    job.write_state(JobState(state="cancelled", attempt=2, submitted_at=now(), finished_at=now()))
    assert jobs.document(job.id).message == "an epoch"


def test_document_of_a_succeeded_job_has_its_result(jobs: Jobs) -> None:
    """A job that succeeded names its model, version and metrics, and has no time left."""
    job = jobs.submit(SPEC)
    result = JobResult(model="digits", version=3, metrics={"accuracy": 0.99}, promoted=True, promotion_reason="better")
    job.append(epoch(1, remaining_seconds=500))
    job.write_result(result)
    job.write_state(JobState(state="succeeded", attempt=1, submitted_at=now(), finished_at=now()))
    document = JobDocument.of(job)
    assert document.result == result
    assert document.remaining_seconds is None
    assert document.final


def test_history_has_each_epoch_once_after_a_resume(jobs: Jobs) -> None:
    """Epochs that a resumed trainer did again count as it did them last."""
    job = jobs.submit(SPEC)
    for line in [epoch(1, loss=3), epoch(2, loss=2), epoch(3, loss=1), epoch(2, 2, loss=2.5), epoch(3, 2, loss=1.5)]:
        job.append(line)
    history = jobs.document(job.id).history
    assert [(line.epoch, line.loss) for line in history] == [(1, 3), (2, 2.5), (3, 1.5)]


def test_log_is_cut_to_its_last_lines(jobs: Jobs) -> None:
    """The log's end comes in whole lines, as many as asked for, whatever bytes are in it."""
    job = jobs.submit(SPEC)
    assert jobs.log(job.id) == ""
    log = job.path / "log.txt"
    log.write_bytes(b"first\nsecond\xff\nthird\nfour")
    assert jobs.log(job.id, lines=2) == "third\nfour\n"
    assert jobs.log(job.id, lines=9) == "first\nsecond\ufffd\nthird\nfour\n"
    assert jobs.log(job.id, lines=0) == ""


def test_log_is_shown_without_what_libraries_say_of_themselves(jobs: Jobs) -> None:
    """TensorFlow cannot be told to begin in silence; its warnings and errors are shown, and the file has all."""
    job = jobs.submit(SPEC)
    said = [
        "loading TensorFlow, 2 threads",
        "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        "I0000 00:00:1795411167.939922    3949 port.cc:153] oneDNN custom operations are on.",
        "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",
        "W0000 00:00:1795411167.939922    3949 cpu.cc:1] Allocation exceeds the free memory.",
        "E0000 00:00:1795411167.939922    3949 gpu.cc:1] No such device.",
        "INFO of our own",
    ]
    (job.path / "log.txt").write_text("".join(f"{line}\n" for line in said))
    shown = [said[0], *said[4:]]
    assert jobs.log(job.id).splitlines() == shown
    assert jobs.log(job.id, lines=4).splitlines() == shown


def test_queued_job_tells_how_many_go_before_it(jobs: Jobs) -> None:
    """Those that have begun and those that came before; once it has begun itself, that is over."""
    done, running, older, job, _ = (jobs.submit(SPEC) for _ in range(5))
    done.write_state(done.state().model_copy(update={"state": "succeeded"}))
    running.write_state(running.state().model_copy(update={"state": "running", "attempt": 1}))
    assert jobs.document(job.id).ahead == 2
    assert [listed.ahead for listed in jobs.documents().jobs] == [3, 2, 1, None, None]
    older.write_state(older.state().model_copy(update={"state": "cancelled"}))
    assert jobs.document(job.id).ahead == 1
    job.write_state(job.state().model_copy(update={"state": "running", "attempt": 1}))
    assert jobs.document(job.id).ahead is None


def test_long_log_is_not_read_whole(jobs: Jobs) -> None:
    """Of a log of many megabytes only the end is read, from the beginning of a line."""
    job = jobs.submit(SPEC)
    (job.path / "log.txt").write_text("".join(f"line {number:09}\n" for number in range(100_000)))
    log = jobs.log(job.id)
    assert len(log) <= 256 * 1024
    assert log.startswith("line ")
    assert log.endswith("line 000099999\n")


def test_look_at_the_lock_keeps_no_trainer_out(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """A look whether a job is alive takes its lock for an instant: a trainer that comes just then tries again."""
    job = jobs.submit(SPEC)
    look = os.open(job.path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_SH)
    monkeypatch.setattr(time, "sleep", lambda _: os.close(look))
    with job.hold() as held:
        assert held


def test_looks_at_the_lock_do_not_disturb_each_other(jobs: Jobs) -> None:
    """Two who look at the same time both see that nobody is at work."""
    job = jobs.submit(SPEC)
    look = os.open(job.path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(look, fcntl.LOCK_SH)
    assert not job.alive
    os.close(look)


def test_holder_is_named_in_the_lock(jobs: Jobs) -> None:
    """The lock says which process took it last."""
    job = jobs.submit(SPEC)
    assert job.holder is None
    with job.hold():
        assert job.alive
        assert job.holder == os.getpid()
    assert not job.alive


def test_jobs_of_a_workspace_that_does_not_exist_are_none(tmp_path: Path) -> None:
    """Looking at a workspace that was never used makes nothing."""
    jobs = Jobs(tmp_path / "never" / "jobs")
    assert jobs.list() == []
    assert jobs.counts()["queued"] == 0
    assert not (tmp_path / "never").exists()
