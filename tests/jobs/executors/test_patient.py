"""A launcher of few trainers, which sees to it itself that each begins once."""

from __future__ import annotations

import pytest

from app.errors import TrainingFailed
from app.jobs.executors.base import Exit
from app.jobs.executors.patient import Patient
from app.jobs.folder import JobFolder
from app.jobs.jobs import Jobs
from tests.jobs.conftest import SPEC

AWAY = ConnectionError("The scheduler answered 500.")


class Scheduler:
    """An executor that is told what it answers."""

    capacity = 5

    def __init__(self) -> None:
        self.away: OSError | None = None
        self.living = False
        self.exit: Exit | None = None
        self.launched = 0
        self.ended = 0

    def launch(self, job: JobFolder) -> None:
        self._reach()
        self.launched += 1
        self.living = True

    def alive(self, job: JobFolder) -> bool:
        self._reach()
        return self.living

    def collect(self, job: JobFolder) -> Exit | None:
        ended, self.exit = self.exit, None
        return ended

    def end(self, job: JobFolder, *, force: bool) -> None:
        self._reach()
        self.ended += 1

    def _reach(self) -> None:
        if self.away:
            raise self.away


def test_trainer_that_cannot_be_sent_is_sent_when_it_can(jobs: Jobs) -> None:
    """To whoever looks it lives meanwhile."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    scheduler.away = AWAY
    patient.launch(job)
    assert patient.alive(job)
    scheduler.away = None
    assert patient.alive(job)
    assert patient.alive(job)
    assert scheduler.launched == 1


def test_scheduler_that_is_away_has_killed_nobody(jobs: Jobs) -> None:
    """What is not known of a trainer is not that it died."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    patient.launch(job)
    scheduler.away = AWAY
    assert patient.alive(job)
    patient.end(job, force=False)
    scheduler.away, scheduler.living = None, False
    assert not patient.alive(job)
    assert scheduler.launched == 1


def test_trainer_that_was_refused_is_sent_again_and_one_that_died_is_not(jobs: Jobs) -> None:
    """Whether it is worth another try is for the caller to say, where it had its chance."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    patient.launch(job)
    scheduler.living, scheduler.exit = False, Exit("waited too long", refused=True)
    assert patient.alive(job)
    assert scheduler.launched == 2
    scheduler.living, scheduler.exit = False, Exit("was killed by SIGKILL")
    assert not patient.alive(job)
    assert scheduler.launched == 2


def test_trainer_that_was_told_to_end_before_it_was_sent_is_never_sent(jobs: Jobs) -> None:
    """There is nothing to end, and nothing to begin any more."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    scheduler.away = AWAY
    patient.launch(job)
    patient.end(job, force=False)
    scheduler.away = None
    assert not patient.alive(job)
    assert (scheduler.launched, scheduler.ended) == (0, 0)


def test_trainer_that_waits_for_a_place_is_not_waited_for_once_it_must_end(jobs: Jobs) -> None:
    """A scheduler keeps it in its queue; only one that holds its job has something to end."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    patient.launch(job)
    patient.end(job, force=False)
    assert patient.alive(job)
    patient.end(job, force=True)
    assert not patient.alive(job)
    assert scheduler.ended == 2
    with job.hold():
        assert patient.alive(job)


def test_job_that_is_cancelled_is_not_sent_again(jobs: Jobs) -> None:
    """Neither is one that has ended."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    patient.launch(job)
    job.request_cancel()
    scheduler.living, scheduler.exit = False, Exit("waited too long", refused=True)
    assert not patient.alive(job)
    assert scheduler.launched == 1


def test_what_is_in_the_way_is_told_once(jobs: Jobs) -> None:
    """And not at every look; another problem is told too, and of a hundred only the first ones."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    told: list[str] = []
    patient = Patient(scheduler, told.append)
    scheduler.away = AWAY
    patient.launch(job)
    assert all(patient.alive(job) for _ in range(5))
    assert told == ["The scheduler answered 500. It is tried again."]
    scheduler.away = ConnectionError("Nobody is there.")
    patient.end(job, force=False)
    assert told[1:] == ["Nobody is there. It is tried again."]
    for number in range(100):
        scheduler.away = ConnectionError(str(number))
        assert patient.alive(job)
    assert len(told) == 20


def test_who_may_send_nothing_is_not_kept_waiting(jobs: Jobs) -> None:
    """It fails with the reason; what was sent while that was allowed is not held to be lost."""
    scheduler, job, sent = Scheduler(), jobs.submit(SPEC), jobs.submit(SPEC)
    patient = Patient(scheduler, print)
    patient.launch(sent)
    scheduler.away = AWAY
    patient.launch(job)
    scheduler.away = PermissionError("It asks for another token.")
    assert patient.alive(sent)
    with pytest.raises(TrainingFailed, match=r"cannot be sent: It asks for another token\."):
        patient.alive(job)
    assert patient.alive(job)
    with pytest.raises(TrainingFailed, match="another token"):
        patient.launch(job)
