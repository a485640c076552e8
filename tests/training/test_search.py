"""A search tries what it was asked to, once each, survives whoever dies, and its best goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from app.errors import TrainingFailed
from app.jobs.folder import JobFolder
from app.jobs.networks import Pretrained
from app.jobs.search import Values
from app.jobs.trials import SearchDocument, TrialFolder, read_search, trial_folders
from app.training.reporter import Cancelled
from app.training.search_space import Space
from tests.training.toy_trials import Toy, search_run, searching_job, toy_objective

GRID: dict[str, Any] = {
    "method": "grid",
    "trials": None,
    "space": {"learning_rate": [0.001, 0.01, 0.03], "augmentation.zoom": {"low": 0, "high": 0.2, "step": 0.1}},
}


def _states(job: JobFolder) -> list[str]:
    return [trial.state for trial in SearchDocument.of(job).trials]


def test_a_grid_tries_every_combination_once_and_the_best_is_trained_in_full(workspace: Path) -> None:
    """Three rates and three zooms are nine trials; what is then trained has the best values and the job's epochs."""
    job = searching_job(workspace, **GRID)
    chosen = search_run(job, Toy()).run()
    document = SearchDocument.of(job)
    tried = sorted((trial.values["learning_rate"], trial.values["augmentation.zoom"]) for trial in document.trials)
    assert tried == [(rate, zoom) for rate in (0.001, 0.01, 0.03) for zoom in (0, 0.1, 0.2)]
    assert document.best is not None
    best = document.trials[document.best - 1]
    assert (best.values["learning_rate"], chosen.learning_rate) == (0.01, 0.01)
    assert (chosen.epochs, chosen.search) == (20, None)
    # What is not searched over stays as it would have been chosen for such images.
    assert chosen.augmentation is not None
    assert (chosen.augmentation.zoom, chosen.augmentation.rotation) == (best.values["augmentation.zoom"], 8)
    assert all(folder.spec().epochs == 4 for folder in trial_folders(job))


def test_progress_names_the_trial_of_how_many_and_the_time_left(workspace: Path) -> None:
    """Every trial's beginning and end is told, with the best so far, and how long all will take."""
    job = searching_job(workspace, trials=3, pruning=False)
    search_run(job, Toy()).run()
    lines = job.progress()
    ended = [line for line in lines if line.trials is not None]
    assert [(line.trial, line.trials) for line in ended] == [(1, 3), (2, 3), (3, 3)]
    messages = [line.message for line in lines]
    assert any(message.startswith("trial 2 of 3 begins: learning_rate 0.") for message in messages)
    assert any(message.startswith("trial 3 of 3: validation accuracy 0.") for message in messages)
    assert messages[-1].startswith("the best of 3 trials is trial ")
    assert all(line.remaining_seconds is not None for line in lines[2:] if " gets on: " not in line.message)


def test_an_attempt_in_which_a_trial_gets_on_is_not_fruitless(workspace: Path) -> None:
    """That is told once, with a count, long before a trial ends; what an earlier attempt came to is not told again."""

    class Killed(Toy):
        def __init__(self, *, at: int) -> None:
            super().__init__()
            self.looks, self.at = 0, at

        def alive(self, job: JobFolder) -> bool:
            self.looks += bool(self.launched)
            if self.looks > self.at:
                raise KeyboardInterrupt
            return super().alive(job)

    def counted(job: JobFolder) -> list[str]:
        return [line.message for line in job.progress() if line.trial is not None and "gets on" in line.message]

    job = searching_job(workspace, epochs=40)
    with pytest.raises(KeyboardInterrupt):
        search_run(job, Killed(at=0)).run()
    assert counted(job) == []
    job = searching_job(workspace, epochs=40)
    with pytest.raises(KeyboardInterrupt):
        search_run(job, Killed(at=9)).run()
    assert len(counted(job)) == 1
    assert counted(job)[0].startswith("trial 1 of 6 gets on: ")
    with pytest.raises(KeyboardInterrupt):
        search_run(job, Killed(at=0)).run()
    assert len(counted(job)) == 1


def test_a_trial_that_is_worse_than_the_others_is_stopped(workspace: Path) -> None:
    """Once four are complete, one below their median is pruned; the best is a complete one."""
    rates = [0.01, 0.011, 0.012, 0.013, 0.014, 0.015, 0.05, 0.06, 0.07, 0.08]
    job = searching_job(workspace, **{**GRID, "space": {"learning_rate": rates}})
    search_run(job, Toy()).run()
    document = SearchDocument.of(job)
    pruned = [trial for trial in document.trials if trial.state == "pruned"]
    assert pruned
    assert all(len(trial.curve) < 4 for trial in pruned)
    assert document.best is not None
    assert document.trials[document.best - 1].values == {"learning_rate": 0.01}

    everything = searching_job(workspace, **{**GRID, "space": {"learning_rate": rates}, "pruning": False})
    search_run(everything, Toy()).run()
    assert _states(everything) == ["complete"] * 10


def test_trials_run_side_by_side(workspace: Path) -> None:
    """`parallel` of them live at a time, and never more."""
    toy = Toy()
    job = searching_job(workspace, trials=7, parallel=3)
    search_run(job, toy).run()
    assert toy.most_at_a_time == 3
    assert len(_states(job)) == 7


def test_a_failed_trial_is_told_and_the_search_goes_on(workspace: Path) -> None:
    """Numbers that run away are that trial's end, with the reason; one that dies is tried again twice."""

    def objective(values: Values, epoch: int) -> float:
        return -1.0 if values["learning_rate"] == 0.03 else toy_objective(values, epoch)

    toy = Toy(objective, deaths={1: 1, 2: 99})
    job = searching_job(workspace, **{**GRID, "space": {"learning_rate": [0.001, 0.01, 0.03, 0.02]}})
    search_run(job, toy).run()
    trials = SearchDocument.of(job).trials
    assert toy.launched == [1, 1, 2, 2, 2, 3, 4]
    assert "died 3 times" in (trials[1].reason or "")
    assert sorted(trial.state for trial in trials) in (
        ["complete", "complete", "failed", "failed"],
        ["complete", "complete", "complete", "failed"],
    )


def test_a_search_whose_trials_all_fail_fails_early(workspace: Path) -> None:
    """Five failures without anything else are enough, and the reason is that of the trials."""
    job = searching_job(workspace, trials=50)
    with pytest.raises(TrainingFailed, match=r"The first 5 trials .* The loss is no finite number\."):
        search_run(job, Toy(lambda *_: -1.0)).run()
    assert len(_states(job)) == 5


def test_when_the_time_is_up_no_trial_begins_and_those_that_run_are_stopped(workspace: Path) -> None:
    """The minutes of earlier attempts count; the best of what is complete is taken."""

    class Slow(Toy):
        def alive(self, job: JobFolder) -> bool:
            # From the second trial on it takes long.
            time.sleep(0.1 if TrialFolder(job.path).number > 1 else 0)
            return super().alive(job)

    job = searching_job(workspace, trials=None, minutes=0.003)
    search_run(job, Slow()).run()
    states = _states(job)
    assert states[0] == "complete"
    assert len(states) <= 3
    assert read_search(job).best == 1


def test_a_cancelled_job_leaves_no_trial_running(workspace: Path) -> None:
    """The job's marker ends the search and its trials."""
    toy = Toy()
    job = searching_job(workspace)
    job.request_cancel()
    with pytest.raises(Cancelled):
        search_run(job, toy).run()

    class CancelsLater(Toy):
        def launch(self, job: JobFolder) -> None:
            super().launch(job)
            if len(self.launched) == 2:
                TrialFolder(job.path).job.request_cancel()

    job = searching_job(workspace)
    with pytest.raises(Cancelled):
        search_run(job, CancelsLater()).run()
    assert _states(job) == ["complete", "cancelled"]


def test_a_trial_does_not_outlive_its_job(workspace: Path) -> None:
    """A job whose trainer died too often has failed; nobody is there to end its trials, and they see to it."""
    job = searching_job(workspace, trials=1)
    toy = Toy()
    trial = TrialFolder.create(job, 1, {"learning_rate": 0.01}, job.spec().model_copy(update={"epochs": 4}))
    toy.launch(trial)
    assert toy.alive(trial)
    job.write_state(job.state().model_copy(update={"state": "failed", "reason": "The trainer died 3 times."}))
    assert not toy.alive(trial)
    assert trial.state().state == "cancelled"


def test_values_that_do_not_go_together_are_a_failed_trial(workspace: Path) -> None:
    """What the spec refuses only in combination is told of that trial; the others go on."""
    space = {
        "architecture": [{"name": "mobilenet_v2", "weights": "w.h5"}],
        "architecture.weights": ["w.h5", None],
        "architecture.frozen_epochs": [0, 2],
    }
    job = searching_job(workspace, **{**GRID, "space": space})
    search_run(job, Toy(lambda *_: 0.5)).run()
    refused = [trial for trial in SearchDocument.of(job).trials if trial.state == "failed"]
    assert [trial.values["architecture.weights"] for trial in refused] == [None]
    assert "frozen_epochs needs `weights`" in (refused[0].reason or "")
    assert sorted(_states(job)) == ["complete"] * 3 + ["failed"]


@pytest.mark.parametrize(("frozen", "in_trial"), [(5, 1), (10, 2), (1, 1), (19, 3), (20, 4), (0, 0), (None, None)])
def test_a_short_trial_has_the_frozen_epochs_that_are_its_share(
    workspace: Path, frozen: int | None, in_trial: int | None
) -> None:
    """Of 4 epochs instead of 20; the base is fine-tuned in the trial if it will be in full."""
    network = {"name": "mobilenet_v2", "weights": "w.h5", "frozen_epochs": frozen}
    space = {"architecture": [network], "step_epochs": [10]}
    job = searching_job(workspace, **{**GRID, "space": space})
    chosen = search_run(job, Toy(lambda *_: 0.5)).run()
    spec = trial_folders(job)[0].spec()
    assert isinstance(spec.architecture, Pretrained)
    assert isinstance(chosen.architecture, Pretrained)
    assert (spec.epochs, spec.step_epochs, spec.architecture.frozen_epochs) == (4, 2, in_trial)
    assert (chosen.epochs, chosen.step_epochs, chosen.architecture.frozen_epochs) == (20, 10, frozen)


def test_a_finished_search_is_not_done_again(workspace: Path) -> None:
    """A trainer that died after the search goes on with what it chose."""
    job = searching_job(workspace, trials=2)
    chosen = search_run(job, Toy()).run()
    assert read_search(job).chosen == chosen


def test_the_best_is_kept_before_anything_that_is_for_show(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trainer that dies over the importances has found its best, and the next one goes on with it."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Space, "importances", killed)
    job = searching_job(workspace, trials=1)
    with pytest.raises(KeyboardInterrupt):
        search_run(job, Toy()).run()
    state = read_search(job)
    assert (state.best, state.chosen is not None, state.importances) == (1, True, None)
    assert "interrupted" in state.remark


def _search_process(job: JobFolder, slow: str = "") -> subprocess.Popen[bytes]:
    with (job.path / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.training.toy_trials", "--search", str(job.path)],
            env={**os.environ, "TOY_SLOW": slow, "PYTHONPATH": str(Path.cwd())},
            stdout=log,
            stderr=log,
        )


def _wait_for_run(job: JobFolder, number: int) -> TrialFolder:
    deadline = time.monotonic() + 60
    trial = TrialFolder(job.path / "trials" / f"{number:04d}")
    while not trial.path.exists() or not trial.progress():
        assert time.monotonic() < deadline, (job.path / "log.txt").read_text()
        time.sleep(0.02)
    return trial


def test_killed_with_its_trial_a_search_is_resumed_and_repeats_no_finished_trial(workspace: Path) -> None:
    """`kill -9` of the search and of a trial: those that had ended stay, the killed one is done, all are as planned."""
    unbroken = searching_job(workspace, method="tpe", trials=4, pruning=False)
    search_run(unbroken, Toy()).run()
    job = searching_job(workspace, method="tpe", trials=4, pruning=False)
    first = _search_process(job, slow="2")
    trial = _wait_for_run(job, 2)
    first.kill()
    first.wait()
    holder = trial.holder
    # The trial outlives who launched it, and is adopted; then it is killed, too.
    assert trial.alive
    assert holder is not None
    second = _search_process(job)
    while not any("of 2 begun before, 1 ended" in line.message for line in job.progress()):
        assert second.poll() is None, (job.path / "log.txt").read_text()
        time.sleep(0.02)
    time.sleep(0.2)
    assert (job.path / "runs.txt").read_text().split() == ["1", "2"]
    os.kill(holder, signal.SIGKILL)
    assert second.wait(60) == 0, (job.path / "log.txt").read_text()
    runs = (job.path / "runs.txt").read_text().split()
    assert sorted(runs) == ["1", "2", "2", "3", "4"]
    found, expected = SearchDocument.of(job), SearchDocument.of(unbroken)
    assert [trial.values for trial in found.trials] == [trial.values for trial in expected.trials]
    assert (found.best, found.done) == (expected.best, True)
    assert json.loads((job.path / "search.json").read_text())["chosen"]["search"] is None
