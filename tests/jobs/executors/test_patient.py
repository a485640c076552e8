"""A launcher of few trainers, which sees to it itself that each begins once."""

from __future__ import annotations

from app.jobs.executors.base import Exit
from app.jobs.executors.patient import Patient
from app.jobs.folder import JobFolder
from app.jobs.jobs import Jobs
from tests.jobs.conftest import SPEC


class Scheduler:
    """An executor that is told what it answers."""

    capacity = 5

    def __init__(self) -> None:
        self.away = False
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
            raise ConnectionError("away")


def test_trainer_that_cannot_be_sent_is_sent_when_it_can(jobs: Jobs) -> None:
    """To whoever looks it lives meanwhile."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler)
    scheduler.away = True
    patient.launch(job)
    assert patient.alive(job)
    scheduler.away = False
    assert patient.alive(job)
    assert patient.alive(job)
    assert scheduler.launched == 1


def test_scheduler_that_is_away_has_killed_nobody(jobs: Jobs) -> None:
    """What is not known of a trainer is not that it died."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler)
    patient.launch(job)
    scheduler.away = True
    assert patient.alive(job)
    patient.end(job, force=False)
    scheduler.away = scheduler.living = False
    assert not patient.alive(job)
    assert scheduler.launched == 1


def test_trainer_that_was_refused_is_sent_again_and_one_that_died_is_not(jobs: Jobs) -> None:
    """Whether it is worth another try is for the caller to say, where it had its chance."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler)
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
    patient = Patient(scheduler)
    scheduler.away = True
    patient.launch(job)
    patient.end(job, force=False)
    scheduler.away = False
    assert not patient.alive(job)
    assert (scheduler.launched, scheduler.ended) == (0, 0)


def test_trainer_that_waits_for_a_place_is_not_waited_for_once_it_must_end(jobs: Jobs) -> None:
    """A scheduler keeps it in its queue; only one that holds its job has something to end."""
    scheduler, job = Scheduler(), jobs.submit(SPEC)
    patient = Patient(scheduler)
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
    patient = Patient(scheduler)
    patient.launch(job)
    job.request_cancel()
    scheduler.living, scheduler.exit = False, Exit("waited too long", refused=True)
    assert not patient.alive(job)
    assert scheduler.launched == 1
