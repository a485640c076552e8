"""The training loop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.errors import TrainingFailed
from app.jobs.folder import JobFolder
from app.jobs.networks import SimpleCNN
from app.training import batches, phases
from app.training import fit as fit_module
from app.training.checkpoint import Checkpoint, Epoch
from app.training.fit import _is_best, fit
from app.training.phases import Phase
from app.training.reporter import Cancelled, Reporter
from app.training.run import Run
from app.training.steps import Scores, check_loss, check_weights

SMALL = {"architecture": {"name": "simple_cnn", "filters": [4], "dense_units": 8}, "early_stopping": None}


class _Interrupted(Exception):
    """Stands for the death of the process."""


def _weights(fitted: Any) -> list[Any]:
    return [np.asarray(weight) for weight in fitted.model.weights]


def _curve(fitted: Any) -> list[Any]:
    """All that is known of the epochs, but for how long they took."""
    return [replace(epoch, seconds=0.0) for epoch in fitted.history]


@pytest.mark.parametrize(
    "extra",
    [{}, {"weight_average": 0.9, "optimizer": "sgd"}, {"optimizer": "rmsprop", "phases": 2}],
    ids=["adamw", "sgd, averaged", "rmsprop in two phases"],
)
@pytest.mark.parametrize("after", ["an epoch", "a step"])
def test_a_resumed_run_ends_as_an_unbroken_one(
    shapes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extra: dict[str, Any], after: str
) -> None:
    """Broken off after an epoch, or amid one, and resumed, training ends with the same weights and the same curve.

    A phase that begins after the first epoch has an optimizer of its own: it does not get the one of the phase before.
    """
    if "phases" in extra:
        two = [Phase(1, 1, 0.01, frozen=False), Phase(2, 2, 0.001, frozen=False)]
        monkeypatch.setattr(phases, "phases", lambda _: two)
    fields = {name: value for name, value in extra.items() if name != "phases"}
    spec, data, reporter, _ = shapes(**SMALL, **fields, epochs=3)
    unbroken = fit(spec, data, tmp_path / "unbroken", reporter)

    def die(*_: Any) -> None:
        raise _Interrupted

    with monkeypatch.context() as patch:
        if after == "an epoch":
            patch.setattr(fit_module, "_report", die)
        else:
            patch.setattr(batches, "_SECONDS", 0.0)
            patch.setattr(Run, "_due", lambda run: len(run.state.history) == 1 and run.state.step == 2)
            patch.setattr(Run, "_report_step", die)
        with pytest.raises(_Interrupted):
            fit(spec, data, tmp_path / "broken", reporter)
    state = Checkpoint.load(tmp_path / "broken")
    assert state is not None
    assert (len(state.history), state.step) == (1, 0 if after == "an epoch" else 2)
    resumed = fit(spec, data, tmp_path / "broken", reporter)

    for one, other in zip(_weights(unbroken), _weights(resumed), strict=True):
        np.testing.assert_array_equal(one, other)
    assert _curve(unbroken) == _curve(resumed)


def test_a_run_that_is_resumed_with_other_threads_says_so(shapes: Any, tmp_path: Path, capsys: Any) -> None:
    """Sums are then taken in another order: the log says that the last bits may differ."""
    spec, data, reporter, _ = shapes(**SMALL, epochs=1)
    fit(spec, data, tmp_path / "checkpoint", reporter, threads=2)
    fit(spec, data, tmp_path / "checkpoint", reporter, threads=2)
    assert "resuming after epoch 1" in (said := capsys.readouterr().out)
    assert "threads" not in said
    fit(spec, data, tmp_path / "checkpoint", reporter, threads=4)
    assert "resumed with 4 threads instead of 2" in capsys.readouterr().out


def test_a_checkpoint_of_another_network_is_left(shapes: Any, tmp_path: Path, capsys: Any) -> None:
    """What a release before built differently does not fail the job: it begins anew, and its own checkpoints stay.

    Though those that it found were of later epochs than it gets to before it is broken off in its turn.
    """
    spec, data, reporter, _ = shapes(**SMALL, epochs=3)
    fit(spec, data, tmp_path / "checkpoint", reporter)
    other = spec.model_copy(update={"architecture": SimpleCNN(filters=(5,)), "epochs": 1})
    assert len(fit(other, data, tmp_path / "checkpoint", reporter).history) == 1
    assert "beginning anew" in capsys.readouterr().out
    fit(other.model_copy(update={"epochs": 2}), data, tmp_path / "checkpoint", reporter)
    assert "resuming after epoch 1" in capsys.readouterr().out


def test_the_weights_of_the_best_epoch_are_kept(shapes: Any, tmp_path: Path) -> None:
    """At a constant learning rate, what comes back is the epoch that did best on the validation split."""
    spec, data, reporter, _ = shapes(**SMALL, epochs=4, learning_rate=0.3, schedule="constant")
    fitted = fit(spec, data, tmp_path / "checkpoint", reporter)
    keys = [(epoch.val_accuracy, -epoch.val_loss) for epoch in fitted.history]
    assert keys[fitted.best_epoch - 1] == max(keys)


@pytest.mark.parametrize(
    ("accuracies", "kept"),
    [([0.5, 0.9, 0.895], 3), ([0.5, 0.9, 0.88], 2), ([0.9, 0.88, 0.95, 0.5], 3)],
    ids=["within the error", "worse by more", "never behind a better one"],
)
def test_under_a_falling_rate_the_last_epoch_is_kept_unless_it_is_worse(accuracies: list[float], kept: int) -> None:
    """A loss of accuracy that a thousand images cannot tell from noise does not keep earlier weights."""
    history = [Epoch(number, 1.0, 1.0, 1.0, accuracy, 0.1, 1.0) for number, accuracy in enumerate(accuracies, 1)]
    chosen = [number for number in range(1, len(history) + 1) if _is_best(history[:number], 1000, "cosine")]
    assert chosen[-1] == kept


def test_training_stops_early_when_nothing_improves(shapes: Any, tmp_path: Path) -> None:
    """With patience 1, a run whose validation loss rises ends before its epochs are done."""
    spec, data, reporter, job = shapes(
        **SMALL | {"early_stopping": {"patience": 1}}, epochs=50, learning_rate=0.5, schedule="constant"
    )
    assert len(fit(spec, data, tmp_path / "checkpoint", reporter).history) < 50
    assert job.progress()[-1].message == "stopped early: no lower validation loss for 1 epochs"


def test_divergence_is_failed_with_advice(shapes: Any, tmp_path: Path) -> None:
    """A loss that is no number ends the job, and the message says what to try."""
    spec, data, reporter, _ = shapes(
        **SMALL | {"architecture": {"name": "simple_cnn", "filters": [4], "dense_units": 0, "batch_norm": False}},
        optimizer="sgd",
        learning_rate=10,
        weight_decay=1,
        epochs=300,
        warmup=0,
        schedule="constant",
    )
    with pytest.raises(TrainingFailed, match=r"training diverged\. Try a learning rate"):
        fit(spec, data, tmp_path / "checkpoint", reporter)
    # What is left to resume from is from before.
    state = Checkpoint.load(tmp_path / "checkpoint")
    assert state is None or all(np.isfinite(values).all() for values in state.variables)


def test_validation_that_is_no_number_is_failed_with_advice() -> None:
    """Statistics of batch norm may run away while the loss in training, which does not use them, looks fine."""
    check_loss(Scores(1.0, 0.5), 3)
    with pytest.raises(TrainingFailed, match=r"validation loss is nan after epoch 3.*Try a learning rate"):
        check_loss(Scores(float("nan"), 0.5), 3)


def test_weights_that_are_no_numbers_are_failed_with_advice(shapes: Any, tmp_path: Path) -> None:
    """They never get into a checkpoint."""
    check_weights([np.zeros(3), np.array([1, 2], np.uint32)], 2)
    with pytest.raises(TrainingFailed, match=r"weights are no finite numbers any more in epoch 2.*Try"):
        check_weights([np.zeros(3), np.array([1, np.inf])], 2)


def test_a_cancelled_job_stops_within_an_epoch(shapes: Any, tmp_path: Path) -> None:
    """The marker is seen between steps."""
    spec, data, _, job = shapes(**SMALL, epochs=1000)
    job.request_cancel()
    with pytest.raises(Cancelled):
        fit(spec, data, tmp_path / "checkpoint", Reporter(job, attempt=1))


def test_every_epoch_is_reported_with_the_time_left(shapes: Any, tmp_path: Path) -> None:
    """progress.jsonl gets a line an epoch with losses, accuracies and an estimate of the time left."""
    spec, data, reporter, job = shapes(**SMALL, epochs=2)
    fit(spec, data, tmp_path / "checkpoint", reporter)
    lines = [line for line in JobFolder(job.path).progress() if line.epoch]
    assert [line.epoch for line in lines] == [1, 2]
    assert lines[0].remaining_seconds is not None
    assert lines[0].remaining_seconds > 0
    assert lines[1].remaining_seconds == 0
    assert all(None not in (line.loss, line.accuracy, line.val_loss, line.val_accuracy) for line in lines)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimizer_trains(shapes: Any, tmp_path: Path, optimizer: str) -> None:
    """Each optimizer lowers the loss; bfloat16 computation comes back as float32 weights."""
    spec, data, reporter, _ = shapes(**SMALL, optimizer=optimizer, mixed_precision=True, epochs=2)
    fitted = fit(spec, data, tmp_path / "checkpoint", reporter)
    assert fitted.history[1].loss < fitted.history[0].loss
    assert {str(weight.dtype) for weight in fitted.model.weights} == {"float32"}
