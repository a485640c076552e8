"""The search of a job: trials one after another, or some at a time, each a process of its own, until the best is known.

All that it knows stands in the folders of the trials. A trainer that dies and is started again reads them, adopts the
trials that live, has those resumed that died, and repeats none that has ended.
"""

from __future__ import annotations

import json
import statistics
import sys
import time

from app.errors import TrainingFailed
from app.jobs.executors.choice import make_trial_launcher
from app.jobs.folder import JobFolder
from app.jobs.search import Values
from app.jobs.spec import TrainingSpec
from app.jobs.trials import (
    SearchState,
    TrialDocument,
    TrialFolder,
    ranking,
    read_search,
    trial_folders,
    write_search,
)
from app.settings import Settings
from app.store.datasets import Datasets
from app.training.dataset import choose_preprocessing
from app.training.reporter import Reporter
from app.training.search_plan import Plan
from app.training.search_space import Space
from app.training.sources import open_source
from app.training.splits import split
from app.training.trial_processes import Launcher, TrialProcesses

_POLL_SECONDS = 0.3
_SAVE_SECONDS = 10.0

# When so many have failed and none has come to anything, the others would too.
_FAILURES = 5

# The remark of a search that died between its best and its last word.
_INTERRUPTED = "Importances were not computed: the trainer was interrupted."


def search(job: JobFolder, settings: Settings, reporter: Reporter, *, threads: int) -> TrainingSpec:
    """What is to be trained in full: the job's spec with the values of its best trial.

    The trials run where the settings have jobs run; on one machine they share the `threads`.

    Raises:
        TrainingFailed: no trial came to an end.
        Cancelled: the job was asked to stop.
    """
    spec = job.spec()
    assert spec.search is not None
    if (chosen := read_search(job).chosen) is not None:
        reporter.say("an earlier attempt has finished the search")
        return chosen
    source = open_source(spec, Datasets(settings.workspace / "datasets"))
    train = split(source, spec.splits, spec.seed, look_alikes=spec.near_duplicates == "group").train
    preprocessing = choose_preprocessing(spec.preprocessing, source)
    plan = Plan(spec, spec.search, len(train), source.labels, preprocessing)
    launcher = make_trial_launcher(settings, threads=threads, parallel=spec.search.parallel, tell=reporter.search)
    return SearchRun(job, plan, launcher, reporter).run()


class SearchRun:
    """A search that runs, or runs again."""

    def __init__(
        self, job: JobFolder, plan: Plan, launcher: Launcher, reporter: Reporter, *, poll: float = _POLL_SECONDS
    ) -> None:
        """Nothing is done before `run`.

        Args:
            job: the folder of the job; its lock is held.
            plan: what trials are made of.
            launcher: runs them.
            reporter: hears of every trial.
            poll: seconds between looks at them.
        """
        self._job = job
        self._plan = plan
        self._search = plan.search
        self._space = Space(plan.search, plan.spec.seed)
        self._processes = TrialProcesses(launcher)
        self._reporter = reporter
        self._poll = poll
        self._ended: dict[int, TrialDocument] = {}
        self._checkpoints: dict[int, int] = {}
        self._exhausted = False
        self._estimated = False
        self._gets_on = False
        self._begun = time.monotonic()
        self._earlier = read_search(job).seconds
        self._saved = self._begun

    def run(self) -> TrainingSpec:
        """Search, and return the spec to train in full."""
        self._greet()
        try:
            while True:
                self._reporter.check_cancelled(at_once=True)
                trials = [self._look(trial) for trial in trial_folders(self._job)]
                self._check_worth(trials)
                self._estimate_early(trials)
                if not self._begin(trials):
                    break
                if time.monotonic() - self._saved >= _SAVE_SECONDS:
                    self._save(SearchState(seconds=self._seconds()))
                time.sleep(self._poll)
        except BaseException:
            living = [trial for trial in trial_folders(self._job) if trial.number not in self._ended]
            self._processes.end_all(living, poll=self._poll)
            raise
        return self._conclude(trials)

    def _greet(self) -> None:
        """Take in what earlier attempts have done, and say what is to come."""
        known = [TrialDocument.of(trial) for trial in trial_folders(self._job)]
        self._ended = {trial.number: trial for trial in known if trial.ended}
        size = self._space.size
        of = f" of {size:,} combinations" if size is not None else ""
        budget = [f"at most {self._search.trials:,} trials"] if self._search.trials is not None else []
        budget += [f"{self._search.minutes:g} minutes"] if self._search.minutes is not None else []
        went = f"; of {len(known):,} begun before, {len(self._ended):,} ended" if known else ""
        self._reporter.search(
            f"{self._search.method} search{of}, {' or '.join(budget) or 'all of them'}{went}",
            remaining_seconds=self._left([*self._ended.values()]),
        )

    def _look(self, trial: TrialFolder) -> TrialDocument:
        """What a trial looks like now, after doing what is due: launch it, end it, or draw its conclusion."""
        if trial.number in self._ended:
            return self._ended[trial.number]
        self._tell_progress(trial)
        alive = self._processes.alive(trial)
        document = TrialDocument.of(trial)
        if alive:
            self._end_where_due(trial, document)
            return document
        if not document.ended:
            self._processes.settle(trial)
            document = TrialDocument.of(trial)
        if document.ended:
            self._ended[trial.number] = document
            self._tell_end(document)
        return document

    def _tell_progress(self, trial: TrialFolder) -> None:
        """Say once that a trial has come to a checkpoint in this attempt: whatever ends it, it was not fruitless.

        Told of every checkpoint, the progress of a job would be as long as that of all its trials.
        """
        if self._gets_on:
            return
        checkpoints = trial.checkpoints()
        if len(checkpoints) > self._checkpoints.setdefault(trial.number, len(checkpoints)):
            self._gets_on = True
            self._reporter.search(
                f"trial {self._of(trial.number)} gets on: {checkpoints[-1].message}",
                trial=len(self._ended),
                remaining_seconds=self._left([*self._ended.values()]),
            )

    def _end_where_due(self, trial: TrialFolder, document: TrialDocument) -> None:
        """A trial that is hopeless or too late is asked to end; one that does not end is made to."""
        if not document.ended and trial.stopped() is None:
            ended = list(self._ended.values())
            if self._space.is_hopeless(document, ended):
                trial.stop("pruned")
            elif self._is_late() and any(other.state == "complete" for other in ended):
                trial.stop("stopped")
            else:
                return
        self._processes.see_to_end(trial)

    def _begin(self, trials: list[TrialDocument]) -> bool:
        """Make the trials that there is room for; whether any is to be waited for."""
        # A trial that has said its last word still takes its memory until its process is gone.
        running = sum(trial.number not in self._ended for trial in trials)
        while running < self._search.parallel and not self._is_spent(trials):
            number = len(trials) + 1
            values = self._space.propose(number, trials)
            if values is None:
                self._exhausted = True
                break
            trials = [*trials, self._make(number, values)]
            running += number not in self._ended
        return running > 0 or not self._is_spent(trials)

    def _is_spent(self, trials: list[TrialDocument]) -> bool:
        return self._exhausted or self._is_late() or len(trials) >= self._most()

    def _most(self) -> int:
        return min(self._search.trials or sys.maxsize, self._space.size or sys.maxsize)

    def _is_late(self) -> bool:
        return self._search.minutes is not None and self._seconds() >= 60 * self._search.minutes

    def _make(self, number: int, values: Values) -> TrialDocument:
        try:
            spec, refused = self._plan.trial(values), None
        except ValueError as error:
            # Each value is valid by itself, but not these together.
            spec, refused = self._plan.spec.model_copy(update={"search": None}), error
        trial = TrialFolder.create(self._job, number, values, spec)
        self._reporter.search(
            f"trial {self._of(number)} begins: {shown(values)}", remaining_seconds=self._left([*self._ended.values()])
        )
        if refused is not None:
            reason = f"These values do not go together: {refused}"[:1000]
            state = trial.state()
            trial.write_state(state.model_copy(update={"started_at": state.submitted_at}).ended("failed", reason))
        return self._look(trial)

    def _tell_end(self, trial: TrialDocument) -> None:
        ended = list(self._ended.values())
        best = ranking(ended, self._search)
        objective = trial.val_accuracy if self._search.objective == "val_accuracy" else trial.val_loss
        came_to = {
            "complete": f"validation {self._name} {objective:.4f}" if objective is not None else "complete",
            "pruned": "stopped, since others did better",
            "stopped": "stopped, since the time was up",
            "failed": f"failed: {trial.reason}",
        }.get(trial.state, trial.state)
        leader = f"; best so far: {self._figure(best[0]):.4f}, trial {best[0].number}" if best else ""
        left = self._left(ended)
        self._reporter.search(
            f"trial {self._of(trial.number)}: {came_to}{leader}",
            trial=len(ended),
            trials=None if self._most() == sys.maxsize else self._most(),
            remaining_seconds=left,
        )

    def _check_worth(self, trials: list[TrialDocument]) -> None:
        failed = [trial for trial in trials if trial.state == "failed"]
        if len(failed) >= _FAILURES and len(failed) == sum(trial.ended for trial in trials):
            raise TrainingFailed(
                f"The first {len(failed)} trials of the search failed. The last one: {failed[-1].reason}"
            )

    def _conclude(self, trials: list[TrialDocument]) -> TrainingSpec:
        ranked = ranking(trials, self._search)
        if not ranked:
            why = next((f" The first that failed: {trial.reason}" for trial in trials if trial.state == "failed"), "")
            raise TrainingFailed(f"None of the {len(trials)} trials of the search came to its end.{why}")
        best = ranked[0]
        chosen = self._plan.full(best.values)
        found = SearchState(seconds=self._seconds(), best=best.number, remark=_INTERRUPTED, chosen=chosen)
        # What hours were spent on before what is only for show.
        self._save(found)
        importances, remark = self._space.importances(trials)
        self._save(found.model_copy(update={"importances": importances, "remark": remark}))
        self._reporter.search(
            f"the best of {len(trials):,} trials is trial {best.number} (validation {self._name} "
            f"{self._figure(best):.4f}), now trained in full: {shown(best.values)}",
            remaining_seconds=self._full_seconds(ranked),
        )
        return chosen

    def _estimate_early(self, trials: list[TrialDocument]) -> None:
        """Before a trial has ended its own estimate tells how long all will take; that is said once."""
        if self._estimated or self._ended or not trials:
            return
        progress = trial_folders(self._job)[0].progress()
        last = next((line for line in reversed(progress) if line.remaining_seconds is not None), None)
        if last is None or last.remaining_seconds is None:
            return
        self._estimated = True
        seconds = (last.at - progress[0].at).total_seconds() + last.remaining_seconds
        first = trials[0].model_copy(update={"seconds": seconds, "epochs": last.epochs, "state": "complete"})
        self._reporter.search(f"trial {self._of(1)}: {last.message}", remaining_seconds=self._left([first]))

    def _left(self, ended: list[TrialDocument]) -> float | None:
        """Estimated seconds until the job is done; None before a trial has ended."""
        durations = [trial.seconds for trial in ended if trial.seconds is not None and trial.state != "failed"]
        if not durations:
            return None
        left = float("inf")
        mean = statistics.fmean(durations)
        if (most := self._most()) != sys.maxsize:
            left = mean * (most - len(ended)) / self._search.parallel
        if self._search.minutes is not None:
            left = min(left, max(0.0, 60 * self._search.minutes - self._seconds()))
        return left + self._full_seconds(ranking(ended, self._search))

    def _full_seconds(self, ranked: list[TrialDocument]) -> float:
        """How long the best one takes to be trained in full, by how long its trial took."""
        if not ranked or not ranked[0].epochs or ranked[0].seconds is None:
            return 0.0
        return ranked[0].seconds * self._plan.epochs(self._plan.full(ranked[0].values)) / ranked[0].epochs

    def _seconds(self) -> float:
        return self._earlier + time.monotonic() - self._begun

    def _save(self, state: SearchState) -> None:
        write_search(self._job, state)
        self._saved = time.monotonic()

    def _of(self, number: int) -> str:
        return str(number) if self._most() == sys.maxsize else f"{number} of {self._most()}"

    @property
    def _name(self) -> str:
        return self._search.objective.removeprefix("val_")

    def _figure(self, trial: TrialDocument) -> float:
        return (trial.val_accuracy if self._search.objective == "val_accuracy" else trial.val_loss) or 0.0


def shown(values: Values) -> str:
    """Values for people, in a line."""
    return ", ".join(f"{path} {text if isinstance(text, str) else json.dumps(text)}" for path, text in values.items())
