"""`python -m app.training.trial TRIAL_FOLDER`: train one trial of a search, and say how it did on the validation split.

Exit status: 0 complete, 1 failed, 2 wrong usage, 3 another process runs this trial, 4 stopped.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.cores import available_cores
from app.jobs.folder import CHECKPOINT
from app.jobs.networks import WEIGHTS
from app.jobs.trials import Score, TrialFolder
from app.settings import Settings
from app.store.datasets import Datasets
from app.training import process
from app.training.reporter import Reporter

if TYPE_CHECKING:
    from app.training.dataset import TrainingData


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (Path(arguments[0]) / "trial.json").is_file():
        print("usage: python -m app.training.trial TRIAL_FOLDER (a folder with trial.json)", file=sys.stderr)
        return 2
    return process.run(TrialFolder(Path(arguments[0])), _train, _store, name="trial")


def _train(trial: TrialFolder, reporter: Reporter) -> Score:
    settings = Settings()
    threads = settings.training_threads or available_cores()
    spec = trial.spec()
    with process.tensorflow(trial, reporter, threads):
        from app.training.dataset import prepare
        from app.training.fit import fit

        data = prepare(
            spec,
            Datasets(settings.workspace / "datasets"),
            reporter,
            threads=threads,
            max_pixels=settings.max_pixels,
            decoded=settings.workspace / "decoded",
            max_decoded_bytes=settings.max_decoded_bytes,
        )
        fitted = fit(
            spec,
            without_test(data),
            trial.path / CHECKPOINT,
            reporter,
            weights_folder=settings.workspace / WEIGHTS,
            threads=threads,
        )
    kept = fitted.history[fitted.best_epoch - 1]
    return Score(
        val_accuracy=kept.val_accuracy,
        val_loss=kept.val_loss,
        best_epoch=fitted.best_epoch,
        epochs=len(fitted.history),
        parameters=fitted.model.count_params(),
        seconds=sum(epoch.seconds for epoch in fitted.history),
    )


def without_test(data: TrainingData) -> TrainingData:
    """The data without the test split: what is chosen by it would look better on it than it is."""
    return replace(data, split=replace(data.split, test=data.split.test[:0]))


def _store(trial: TrialFolder, score: Score) -> str:
    trial.write_score(score)
    return f"validation accuracy {score.val_accuracy:.4f}, validation loss {score.val_loss:.4f}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
