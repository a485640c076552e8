"""What a search tries next, which of its trials are not worth going on with, and which fields mattered: with Optuna.

Nothing is remembered between calls: all follows from the search, the seed and the trials so far, so that a search that
is resumed goes on as it would have.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import cast

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from pydantic import JsonValue

from app.jobs.search import Range, Search, Values, is_whole
from app.jobs.spec import TrainingSpec
from app.jobs.trials import TrialDocument

# Complete trials before any is pruned, and before importances are computed.
_LEAST_COMPLETE = 4

# Complete trials from which on importances are more than a hint.
_ENOUGH_COMPLETE = 20

# Trials that `tpe` draws at random before it follows the earlier ones: a quarter, within these bounds.
_LEAST_RANDOM, _MOST_RANDOM = 4, 10

# Share of a trial's epochs in which it is not judged.
_GRACE = 0.25

# Draws that may give what was tried already, before all that is left is listed.
_DRAWS = 10
_LISTED = 100_000

_LONGEST_REMARK = 300

# Digits of a number from a continuous range: more say nothing, and are hard to read.
_DIGITS = 4


class Space:
    """The space of a search."""

    def __init__(self, search: Search, seed: int) -> None:
        """`seed`: of all that is drawn."""
        self._search = search
        self._seed = seed
        self._whole = {path: is_whole(path, TrainingSpec) for path in search.space}
        optuna.logging.set_verbosity(optuna.logging.WARNING)

    @property
    def size(self) -> int | None:
        """How many combinations there are; None: no end of them."""
        size = 1
        for path, tried in self._search.space.items():
            if isinstance(tried, tuple):
                size *= len(tried)
            elif (step := self._step(path, tried)) is not None and not tried.log:
                size *= tried.points(step)
            elif self._whole[path]:
                size *= int(tried.high - tried.low) + 1
            else:
                return None
        return size

    def propose(self, number: int, trials: Sequence[TrialDocument]) -> Values | None:
        """What trial `number` tries, which is nothing that one of `trials` has tried; None: there is nothing left."""
        tried = {_key(trial.values) for trial in trials}
        if self._search.method != "grid":
            for draw in range(_DRAWS):
                values = self._draw(number, draw, trials)
                if _key(values) not in tried:
                    return values
            if self.size is None or self.size > _LISTED:
                return values
        combinations = list(self._combinations())
        order = self._random(0, 0).permutation(len(combinations))
        left = (combinations[position] for position in order)
        return next((values for values in left if _key(values) not in tried), None)

    def is_hopeless(self, trial: TrialDocument, trials: Sequence[TrialDocument]) -> bool:
        """Whether a running trial is worse than the median of the complete ones after as many epochs.

        It is judged by the best epoch that it has had so far, and not in the first quarter of its epochs.
        """
        done = len(trial.curve)
        if not self._search.pruning or not done or done >= (trial.epochs or 0):
            return False
        grace = max(1, round(_GRACE * (trial.epochs or 0)))
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_LEAST_COMPLETE, n_warmup_steps=grace)
        study = self._study(trials, optuna.samplers.RandomSampler(seed=0))
        return pruner.prune(study, self._frozen(trial))

    def importances(self, trials: Sequence[TrialDocument]) -> tuple[dict[str, float] | None, str]:
        """Shares of the paths in how well the trials did, the largest first, or None; and a remark on them.

        fANOVA (Hutter, Hoos, Leyton-Brown 2014): how much of the variance over the space a forest fitted to the
        complete trials puts down to each field.
        """
        complete = [trial for trial in trials if trial.state == "complete"]
        if len(complete) < _LEAST_COMPLETE:
            return None, f"Importances need {_LEAST_COMPLETE} complete trials; there are {len(complete)}."
        if len({self._value(trial) for trial in complete}) == 1:
            return None, "All complete trials did equally well: no field made a difference."
        study = self._study(complete, optuna.samplers.RandomSampler(seed=0))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                # Normalised here: where no field matters Optuna gives all of them the same share.
                weights = get_param_importances(
                    study,
                    evaluator=FanovaImportanceEvaluator(seed=0),
                    params=[*self._search.space],
                    normalize=False,
                )
            except Exception as error:
                # Of trials that are nearly equal, for one. These are only for show, and the search has its best.
                return None, f"Importances could not be computed: {error}"[:_LONGEST_REMARK]
        if not (total := sum(weights.values())):
            return None, "No field made a difference that these trials could show."
        few = f"Of {len(complete)} complete trials, which are few: take it as a hint."
        shares = {path: round(float(weight / total), 4) for path, weight in weights.items()}
        return shares, few if len(complete) < _ENOUGH_COMPLETE else ""

    def _draw(self, number: int, draw: int, trials: Sequence[TrialDocument]) -> Values:
        seed = int(self._random(number, draw).integers(2**31))
        sampler: optuna.samplers.BaseSampler
        if self._search.method == "tpe":
            random = max(_LEAST_RANDOM, min(_MOST_RANDOM, (self._search.trials or 4 * _MOST_RANDOM) // 4))
            sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=random)
        else:
            sampler = optuna.samplers.RandomSampler(seed=seed)
        drawn = self._study(trials, sampler).ask(self._distributions()).params
        return {path: self._read(path, drawn[path]) for path in self._search.space}

    def _random(self, number: int, draw: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, 5, number, draw])

    def _study(self, trials: Sequence[TrialDocument], sampler: optuna.samplers.BaseSampler) -> optuna.Study:
        upwards = self._search.objective == "val_accuracy"
        direction = optuna.study.StudyDirection.MAXIMIZE if upwards else optuna.study.StudyDirection.MINIMIZE
        study = optuna.create_study(sampler=sampler, direction=direction)
        study.add_trials([self._frozen(trial) for trial in trials])
        return study

    def _frozen(self, trial: TrialDocument) -> FrozenTrial:
        ended = TrialState.COMPLETE if trial.state == "complete" else TrialState.PRUNED
        # One that failed counts as pruned before its first epoch: where numbers run away nobody should go again.
        curve = {} if trial.state == "failed" else {point.epoch: self._value(point) for point in trial.curve}
        return create_trial(
            state=ended if trial.ended else TrialState.RUNNING,
            value=self._value(trial) if trial.state == "complete" else None,
            params={path: self._write(path, value) for path, value in trial.values.items()},
            distributions=self._distributions(),
            intermediate_values=curve,
        )

    def _value(self, of: object) -> float:
        return cast(float, getattr(of, self._search.objective))

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {path: self._distribution(path, tried) for path, tried in self._search.space.items()}

    def _distribution(self, path: str, tried: tuple[JsonValue, ...] | Range) -> BaseDistribution:
        if isinstance(tried, tuple):
            return CategoricalDistribution([json.dumps(value, sort_keys=True) for value in tried])
        step = self._step(path, tried)
        high = tried.high if step is None or tried.log else _at(tried, step, tried.points(step) - 1)
        if self._whole[path]:
            return IntDistribution(int(tried.low), int(high), log=tried.log, step=1 if tried.log else int(step or 1))
        return FloatDistribution(tried.low, high, log=tried.log, step=step)

    def _step(self, path: str, tried: Range) -> int | float | None:
        return tried.step or (1 if self._whole[path] else None)

    def _read(self, path: str, drawn: object) -> JsonValue:
        """A value as the spec has it, of one as Optuna has it."""
        tried = self._search.space[path]
        if isinstance(tried, tuple):
            return cast(JsonValue, json.loads(cast(str, drawn)))
        if self._whole[path]:
            return int(cast(int, drawn))
        value = float(cast(float, drawn))
        if tried.step is not None:
            return _at(tried, tried.step, round((value - tried.low) / tried.step))
        return min(max(float(f"{value:.{_DIGITS}g}"), float(tried.low)), float(tried.high))

    def _write(self, path: str, value: JsonValue) -> object:
        return json.dumps(value, sort_keys=True) if isinstance(self._search.space[path], tuple) else value

    def _combinations(self) -> Iterator[Values]:
        lists: list[tuple[JsonValue, ...]] = []
        for path, tried in self._search.space.items():
            if isinstance(tried, tuple):
                lists.append(tried)
                continue
            step = 1 if tried.log else self._step(path, tried) or 1
            lists.append(tuple(_at(tried, step, number) for number in range(tried.points(step))))
        for values in itertools.product(*lists):
            yield dict(zip(self._search.space, values, strict=True))


def _at(tried: Range, step: int | float, number: int) -> int | float:
    """The value so many steps above the lowest, as it would be written: 0.3, and not 0.30000000000000004."""
    if isinstance(tried.low, int) and isinstance(step, int):
        return tried.low + number * step
    value = Decimal(str(tried.low)) + number * Decimal(str(step))
    return float(value)


def _key(values: Values) -> str:
    return json.dumps(values, sort_keys=True)
