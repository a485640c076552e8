"""Trials without a network: what they come to is a function of what they try."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from app.jobs.folder import FINAL, JobFolder, Progress, now
from app.jobs.jobs import Jobs
from app.jobs.search import Values
from app.jobs.spec import TrainingSpec
from app.jobs.trials import Score, TrialFolder

if TYPE_CHECKING:
    from app.training.search import SearchRun
    from app.training.trial_processes import Launcher

Objective = Callable[[Values, int], float]


def toy_objective(values: Values, epoch: int) -> float:
    """An accuracy that is best at a learning rate of 0.01, and rises with the epochs."""
    rate = values.get("learning_rate", 0.01)
    assert isinstance(rate, float)
    return (0.9 - min(0.8, abs(rate - 0.01) * 10)) * (1 - 0.5**epoch)


class Toy:
    """Plays trials an epoch at each look at them, in this process; `deaths`: trials that die so often, at once."""

    def __init__(self, objective: Objective = toy_objective, *, deaths: dict[int, int] | None = None) -> None:
        self._objective = objective
        self._deaths = dict(deaths or {})
        self._playing: dict[str, int] = {}
        self.launched: list[int] = []
        self.most_at_a_time = 0

    def launch(self, job: JobFolder) -> None:
        trial = TrialFolder(job.path)
        self.launched.append(trial.number)
        if self._deaths.get(trial.number, 0) > 0:
            self._deaths[trial.number] -= 1
            return
        _begin(trial)
        self._playing[trial.id] = 0
        self.most_at_a_time = max(self.most_at_a_time, len(self._playing))

    def alive(self, job: JobFolder) -> bool:
        if job.id not in self._playing:
            return False
        trial = TrialFolder(job.path)
        self._playing[job.id] += 1
        if not play_epoch(trial, self._playing[job.id], self._objective):
            del self._playing[job.id]
        return job.id in self._playing

    def end(self, job: JobFolder, *, force: bool) -> None:
        self._playing.pop(job.id, None)


def _begin(trial: TrialFolder) -> None:
    state = trial.state()
    update = {"state": "running", "attempt": state.attempt + 1, "started_at": state.started_at or now()}
    trial.write_state(state.model_copy(update=update))


def play_epoch(trial: TrialFolder, epoch: int, objective: Objective) -> bool:
    """Do an epoch, or end; whether the trial goes on."""
    state, epochs = trial.state(), trial.spec().epochs or 0
    if trial.cancel_requested:
        trial.write_state(state.model_copy(update={"state": "cancelled", "finished_at": now()}))
        return False
    accuracy = objective(trial.values(), epoch)
    if accuracy < 0:
        update = {"state": "failed", "finished_at": now(), "reason": "The loss is no finite number."}
        trial.write_state(state.model_copy(update=update))
        return False
    scores = {"val_accuracy": accuracy, "val_loss": 1 - accuracy}
    line = {"at": now(), "attempt": state.attempt, "phase": "fit", "epoch": epoch, "epochs": epochs, **scores}
    trial.append(Progress.model_validate({**line, "remaining_seconds": 0.1}))
    if epoch < epochs:
        return True
    trial.write_score(Score(**scores, best_epoch=epoch, epochs=epoch, parameters=7, seconds=0.1))
    trial.write_state(trial.state().model_copy(update={"state": "succeeded", "finished_at": now()}))
    return False


def searching_job(workspace: Path, **search: Any) -> JobFolder:
    """Queue a job that searches, by default for a learning rate, in trials of four epochs."""
    space = {"learning_rate": {"low": 0.0001, "high": 0.1, "log": True}}
    asked = {"method": "random", "space": space, "trials": 6, "epochs": 4, **search}
    spec = {"dataset": "shapes", "architecture": {"name": "simple_cnn"}, "epochs": 20, "search": asked}
    return Jobs(workspace / "jobs").submit(TrainingSpec.model_validate(spec))


def search_run(job: JobFolder, launcher: Launcher, *, poll: float = 0.0) -> SearchRun:
    """The search of that job, on made-up data."""
    # Not above: a trial that is a process needs none of it, and is there at once without.
    from app.preprocessing import Preprocessing
    from app.training.reporter import Reporter
    from app.training.search import SearchRun
    from app.training.search_plan import Plan

    spec = job.spec()
    assert spec.search is not None
    plan = Plan(spec, spec.search, 100, ["a", "b"], Preprocessing(height=28, width=28, color="grayscale"))
    return SearchRun(job, plan, launcher, Reporter(job, 1), poll=poll)


def tried(job: JobFolder, *values: Values) -> None:
    """Trials of that job which have tried these values and are complete."""
    toy, state = Toy(), job.state()
    # Trials end with their job: it has not, while they run.
    job.write_state(state.model_copy(update={"state": "running"}))
    for number, value in enumerate(values, 1):
        trial = TrialFolder.create(job, number, value, job.spec().model_copy(update={"search": None, "epochs": 4}))
        toy.launch(trial)
        while toy.alive(trial):
            pass
    job.write_state(state)


def main() -> int:
    """A trial as a process: `python -m tests.training.toy_trials FOLDER`. It says in runs.txt that it has begun.

    TOY_SLOW names a trial that takes for ever.
    """
    trial = TrialFolder(Path(sys.argv[1]))
    with trial.hold() as held:
        if not held:
            return 3
        if trial.state().state in FINAL:
            return 0
        _begin(trial)
        with (trial.job.path / "runs.txt").open("a") as runs:
            runs.write(f"{trial.number}\n")
        epoch = 1
        while play_epoch(trial, epoch, toy_objective):
            epoch += 1
            while os.environ.get("TOY_SLOW") == str(trial.number):
                time.sleep(0.05)
    return 0


def orchestrate() -> int:
    """A search as a process: `python -m tests.training.toy_trials --search JOB_FOLDER`."""
    from app.jobs.executors.local_process import LocalProcess

    command = (sys.executable, "-m", "tests.training.toy_trials")
    search_run(JobFolder(Path(sys.argv[2])), LocalProcess({}, command=command, lowest_priority=False), poll=0.02).run()
    return 0


if __name__ == "__main__":
    sys.exit(orchestrate() if sys.argv[1] == "--search" else main())
