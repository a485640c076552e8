"""What is tried next follows from what was tried, and nothing is tried twice."""

from __future__ import annotations

import json
import statistics
from typing import Any

from app.jobs.search import Search, Values
from app.jobs.trials import TrialDocument, TrialEpoch
from app.training.search_space import Space


def _search(space: dict[str, Any], **fields: Any) -> Search:
    return Search.model_validate({"method": "random", "trials": 30, "space": space, **fields})


def _trial(number: int, values: Values, *accuracies: float, epochs: int | None = None) -> TrialDocument:
    """A trial with that curve: complete, unless more epochs are to come."""
    epochs = epochs or len(accuracies)
    return TrialDocument(
        number=number,
        state="complete" if len(accuracies) == epochs else "running",
        values=values,
        val_accuracy=accuracies[-1],
        val_loss=1 - accuracies[-1],
        epochs=epochs,
        curve=[
            TrialEpoch(epoch=epoch, val_accuracy=accuracy, val_loss=1 - accuracy)
            for epoch, accuracy in enumerate(accuracies, 1)
        ],
    )


def _best_of(method: str, seed: int, trials: int) -> float:
    """What a search finds of a bowl over two fields, with a third that does not matter."""
    space = Space(
        _search(
            {
                "learning_rate": {"low": 0.0001, "high": 1, "log": True},
                "momentum": {"low": 0, "high": 0.99},
                "optimizer": ["adam", "sgd"],
            },
            method=method,
            trials=trials,
        ),
        seed,
    )
    done: list[TrialDocument] = []
    for number in range(1, trials + 1):
        values = space.propose(number, done)
        assert values is not None
        rate, momentum = values["learning_rate"], values["momentum"]
        assert isinstance(rate, float)
        assert isinstance(momentum, float)
        done.append(_trial(number, values, 1 - abs(rate - 0.3) - (momentum - 0.4) ** 2))
    return max(trial.val_accuracy or 0 for trial in done)


def test_tpe_finds_better_values_than_chance() -> None:
    """With the same budget, over several seeds, the mean of the best that was found is higher."""
    seeds = range(6)
    found = {method: statistics.fmean(_best_of(method, seed, 24) for seed in seeds) for method in ("random", "tpe")}
    assert found["tpe"] > found["random"] + 0.02


def test_a_search_that_is_resumed_proposes_the_same() -> None:
    """A proposal is a function of the seed, the number and the trials before it; another seed gives another one."""
    asked = _search({"learning_rate": {"low": 0.001, "high": 0.1, "log": True}}, method="tpe", trials=8)
    done: list[TrialDocument] = []
    for number in range(1, 9):
        values = Space(asked, 1).propose(number, done)
        assert values == Space(asked, 1).propose(number, done) != Space(asked, 2).propose(number, done)
        assert values is not None
        done.append(_trial(number, values, number / 10))


def test_nothing_is_tried_twice_and_a_space_comes_to_its_end() -> None:
    """Random draws of nine combinations are all nine, in nine trials; then there is nothing left."""
    space = {"batch_size": [16, 32, 64], "warmup": {"low": 0.1, "high": 0.3, "step": 0.1}}
    for method in ("grid", "random", "tpe"):
        asked = Space(_search(space, method=method), 0)
        assert asked.size == 9
        done: list[TrialDocument] = []
        while (values := asked.propose(len(done) + 1, done)) is not None and len(done) < 20:
            done.append(_trial(len(done) + 1, values, 0.5))
        tried = sorted((trial.values["batch_size"], trial.values["warmup"]) for trial in done)
        assert tried == [(size, warmup) for size in (16, 32, 64) for warmup in (0.1, 0.2, 0.3)]


def test_a_grid_that_the_budget_does_not_reach_over_is_seen_evenly() -> None:
    """Its order is drawn, so that the first few trials differ in every field."""
    asked = Space(_search({"momentum": {"low": 0, "high": 0.9, "step": 0.1}, "batch_size": [16, 32]}, method="grid"), 3)
    done: list[TrialDocument] = []
    for number in range(1, 7):
        values = asked.propose(number, done)
        assert values is not None
        done.append(_trial(number, values, 0.5))
    assert len({json.dumps(trial.values["batch_size"]) for trial in done}) == 2
    assert len({json.dumps(trial.values["momentum"]) for trial in done}) >= 4


def test_values_are_what_a_spec_may_say() -> None:
    """Whole numbers stay whole, steps are met exactly, ends are kept, lists come back as they were."""
    asked = Space(
        _search(
            {
                "batch_size": {"low": 16, "high": 64, "step": 16},
                "epochs": {"low": 1, "high": 100, "log": True},
                "warmup": {"low": 0.1, "high": 0.75, "step": 0.2},
                "learning_rate": {"low": 0.001, "high": 0.01},
                "architecture.filters": [[8, 16], [32]],
            }
        ),
        0,
    )
    for number in range(1, 20):
        values = asked.propose(number, [])
        assert values is not None
        assert values["batch_size"] in (16, 32, 48, 64)
        assert isinstance(values["epochs"], int)
        assert values["warmup"] in (0.1, 0.3, 0.5, 0.7)
        assert isinstance(values["learning_rate"], float)
        assert 0.001 <= values["learning_rate"] <= 0.01
        assert values["architecture.filters"] in ([8, 16], [32])
    assert asked.size is None


def test_a_trial_is_hopeless_below_the_median_of_four_at_the_same_epoch() -> None:
    """Not with three complete ones, not in its first quarter, not when it is done, not where it was asked not to be."""
    curves = [(0.5, 0.6, 0.7, 0.8), (0.4, 0.6, 0.8, 0.9), (0.3, 0.6, 0.7, 0.8), (0.2, 0.5, 0.6, 0.7)]
    rates = {"momentum": {"low": 0, "high": 0.9}}
    done = [_trial(number, {"momentum": number / 10}, *curve) for number, curve in enumerate(curves, 1)]
    space, behind = Space(_search(rates), 0), _trial(5, {"momentum": 0.5}, 0.3, 0.4, epochs=8)
    assert space.is_hopeless(behind, done)
    assert not space.is_hopeless(behind, done[:3])
    assert not space.is_hopeless(_trial(5, {"momentum": 0.5}, 0.1, epochs=8), done)
    assert not space.is_hopeless(_trial(5, {"momentum": 0.5}, 0.3, 0.6, epochs=8), done)
    assert not space.is_hopeless(_trial(5, {"momentum": 0.5}, 0.3, 0.4), done)
    assert not Space(_search(rates, pruning=False), 0).is_hopeless(behind, done)


def test_trials_that_are_nearly_equal_have_no_importances() -> None:
    """Differences below what a forest can tell apart are its failure, not that of the search."""
    space = {"momentum": {"low": 0, "high": 0.9}, "warmup": {"low": 0, "high": 0.9}}
    asked = Space(_search(space, objective="val_loss"), 0)
    done = [_trial(number, {"momentum": number / 10, "warmup": 0.9 - number / 10}, 1.0) for number in range(1, 9)]
    done = [trial.model_copy(update={"val_loss": trial.number % 6 * 1e-200 + 1e-200}) for trial in done]
    shares, remark = asked.importances(done)
    assert shares is None
    assert remark.startswith("Importances could not be computed: ")


def test_importances_say_which_field_mattered() -> None:
    """Of two fields the one that decides has most of the share; too few or equal trials have none, and are told."""
    space = {"momentum": {"low": 0, "high": 0.9}, "warmup": {"low": 0, "high": 0.9}}
    asked = Space(_search(space), 0)
    done: list[TrialDocument] = []
    for number in range(1, 31):
        values = asked.propose(number, done)
        assert values is not None
        assert isinstance(values["momentum"], float)
        done.append(_trial(number, values, 1 - abs(values["momentum"] - 0.5)))
    shares, remark = asked.importances(done)
    assert shares is not None
    assert next(iter(shares)) == "momentum"
    assert shares["momentum"] > 0.7
    assert abs(sum(shares.values()) - 1) < 0.001
    assert remark == ""
    assert asked.importances(done[:3]) == (None, "Importances need 4 complete trials; there are 3.")
    assert "which are few" in asked.importances(done[:6])[1]
    equal = [trial.model_copy(update={"val_accuracy": 0.5}) for trial in done]
    assert asked.importances(equal) == (None, "All complete trials did equally well: no field made a difference.")
