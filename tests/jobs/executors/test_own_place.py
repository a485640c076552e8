"""Trials that have the idle place of their job, and others where there is one: somebody always gets ahead."""

from __future__ import annotations

from app.jobs.executors.base import Exit
from app.jobs.executors.own_place import OwnPlaceFirst
from app.jobs.folder import JobFolder, Placement, now
from app.jobs.jobs import Jobs
from app.jobs.trials import SearchDocument, TrialDocument, TrialFolder, trial_folders
from tests.jobs.conftest import SPEC
from tests.training.toy_trials import Toy, search_run, searching_job


class Here(Toy):
    """Plays trials in this process, one at a time."""

    capacity = 1

    def collect(self, job: JobFolder) -> Exit | None:
        return None


class Full:
    """A cluster that takes every trainer and has a place for none."""

    capacity = 64

    def __init__(self) -> None:
        self.launched: list[str] = []
        self.ended: list[str] = []
        self.looks = 0

    def launch(self, job: JobFolder) -> None:
        self.launched.append(job.id)
        job.write_placement(Placement(scheduler="Ray", submission=job.id, attempt=1, asked_for="1 core", at=now()))

    def alive(self, job: JobFolder) -> bool:
        self.looks += 1
        assert self.looks < 1000, "it is waited for for ever"
        return True

    def collect(self, job: JobFolder) -> Exit | None:
        return None

    def end(self, job: JobFolder, *, force: bool) -> None:
        self.ended.append(job.id)


class Desk:
    """A place that is told whether its trainer lives, and how it ended."""

    capacity = 1

    def __init__(self) -> None:
        self.living: set[str] = set()
        self.exit: Exit | None = None
        self.ended: list[str] = []

    def launch(self, job: JobFolder) -> None:
        self.living.add(job.id)

    def alive(self, job: JobFolder) -> bool:
        return job.id in self.living

    def collect(self, job: JobFolder) -> Exit | None:
        ended, self.exit = self.exit, None
        return ended

    def end(self, job: JobFolder, *, force: bool) -> None:
        self.ended.append(job.id)


def test_a_search_comes_to_its_end_though_nobody_else_ever_gets_a_place(jobs: Jobs) -> None:
    """All places may be held by searches: the one that each holds is enough for all of its trials."""
    here, full = Here(), Full()
    job = searching_job(jobs.root.parent, trials=5, parallel=4, pruning=False)
    search_run(job, OwnPlaceFirst(here, full, patience=0)).run()
    assert [trial.state for trial in SearchDocument.of(job).trials] == ["complete"] * 5
    assert here.most_at_a_time == 1
    assert sorted(here.launched) == [1, 2, 3, 4, 5]
    assert {"0002", "0003", "0004"} <= {*full.launched}
    assert not any(folder.placement() for folder in trial_folders(job))


def test_one_at_a_time_needs_no_other_place(jobs: Jobs) -> None:
    """The place of the job is free again before the next trial begins."""
    full = Full()
    job = searching_job(jobs.root.parent, trials=3, pruning=False)
    search_run(job, OwnPlaceFirst(Here(), full)).run()
    assert full.launched == []


def test_what_runs_elsewhere_is_left_there(jobs: Jobs) -> None:
    """And what has waited for a moment only: a scheduler needs some seconds to start anything."""
    desk, full = Desk(), Full()
    launcher = OwnPlaceFirst(desk, full, patience=0)
    patient = OwnPlaceFirst(desk, full, patience=60)
    job = jobs.submit(SPEC)
    full.launch(job)
    with job.hold():
        assert launcher.alive(job)
    assert patient.alive(job)
    assert desk.living == set()
    job.request_cancel()
    assert launcher.alive(job)
    assert desk.living == set()


def test_what_others_have_launched_is_found_where_it_is(jobs: Jobs) -> None:
    """A trainer that this process adopts has been sent away if its folder says so, and is else in this place."""
    desk, full = Desk(), Full()
    adopted, sent, third = jobs.submit(SPEC), jobs.submit(SPEC), jobs.submit(SPEC)
    desk.living.add(adopted.id)
    full.launch(sent)
    launcher = OwnPlaceFirst(desk, full, patience=0)
    assert launcher.alive(adopted)
    assert launcher.alive(sent)
    launcher.launch(third)
    assert full.launched == [sent.id, third.id]
    for job in (adopted, sent):
        launcher.end(job, force=False)
    assert (desk.ended, full.ended) == ([adopted.id], [sent.id])


def test_trainer_that_gets_its_place_elsewhere_at_that_moment_lives_there(jobs: Jobs) -> None:
    """The one here finds the job taken and goes; that is no death."""
    desk, full = Desk(), Full()
    launcher = OwnPlaceFirst(desk, full, patience=0)
    job = jobs.submit(SPEC)
    full.launch(job)
    assert launcher.alive(job)
    assert desk.living == {job.id}
    with job.hold():
        desk.living, desk.exit = set(), Exit("found the job taken", refused=True)
        assert launcher.alive(job)
        launcher.end(job, force=False)
    assert (desk.ended, full.ended) == ([], [job.id])
    launcher.launch(jobs.submit(SPEC))
    assert len(desk.living) == 1


def test_trainer_that_dies_here_is_dead(jobs: Jobs) -> None:
    """Nobody has it elsewhere; whoever is launched next has the place."""
    desk = Desk()
    launcher = OwnPlaceFirst(desk, Full())
    job, following = jobs.submit(SPEC), jobs.submit(SPEC)
    launcher.launch(job)
    assert launcher.alive(job)
    desk.living, desk.exit = set(), Exit("was killed by SIGKILL")
    assert not launcher.alive(job)
    launcher.launch(following)
    assert desk.living == {following.id}


def test_where_a_trial_was_sent_is_shown_until_it_has_ended_or_has_a_place_here(jobs: Jobs) -> None:
    """By the name that the scheduler knows it by."""
    job = searching_job(jobs.root.parent)
    trial = TrialFolder.create(job, 1, {"learning_rate": 0.01}, job.spec())
    desk, full = Desk(), Full()
    full.launch(trial)
    placement = TrialDocument.of(trial).placement
    assert placement is not None
    assert (placement.scheduler, placement.submission) == ("Ray", "0001")
    OwnPlaceFirst(desk, full, patience=0).alive(trial)
    assert TrialDocument.of(trial).placement is None
    full.launch(trial)
    trial.write_state(trial.state().model_copy(update={"state": "cancelled"}))
    assert TrialDocument.of(trial).placement is None
