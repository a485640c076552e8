"""TRAINING.md: what was measured of training as tables, and the curves as a picture."""

from __future__ import annotations

from pathlib import Path

from benchmarks.figures import figure, megabytes, number
from benchmarks.report import machine_in_words, table
from benchmarks.trainings.results import Memory, Results, Run, Speed

_CURVES = "training-curves.svg"
_MINUTES = (1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 180)
_NONE = "–"


def markdown(results: Results, folder: Path) -> str:
    """The whole document; the picture of the curves is put into `folder`."""
    parts = [
        "# Training",
        f"Written by `python -m benchmarks.training`, last on {results.began:%d %B %Y}. "
        f"{machine_in_words(results.machine)}",
        _runs(list(results.runs.values())),
        _curves([results.runs[key] for key in ("dataset", "classic") if key in results.runs], folder),
        _speeds(list(results.speeds.values())),
        _memory(results.memory),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _runs(runs: list[Run]) -> str:
    rows = [
        [
            f"{run.dataset}: {run.title}" if run.title != run.dataset else run.title,
            run.network,
            f"{run.images:,}",
            str(run.epochs),
            f"{run.accuracy:.2%}",
            f"{run.low:.2%} to {run.high:.2%} of {run.tested:,}",
            _NONE if run.to_first_step is None else number(run.to_first_step),
            number(run.fitting),
            number(run.seconds),
            _NONE if run.peak_bytes is None else megabytes(run.peak_bytes),
        ]
        for run in runs
    ]
    if not rows:
        return ""
    head = [
        *("job, with default settings", "network", "training images", "epochs", "test accuracy", "95 % interval"),
        *("to the first step, s", "epochs, s", "submission to version, s", "peak memory, MB"),
    ]
    notes = "\n".join(f"- {run.dataset}: {run.title}: {run.note}" for run in runs if run.note)
    return "\n\n".join(
        part
        for part in (
            "## Jobs",
            "Accuracy is that of the test split, which is looked at once. Peak memory is that of the trainer, without "
            "the pages of files.",
            table(head, rows),
            notes,
        )
        if part
    )


def _curves(runs: list[Run], folder: Path) -> str:
    if not runs:
        return ""
    _draw(runs, folder / _CURVES)
    last = max(run.curve[-1][0] for run in runs) / 60
    minutes = [*(minute for minute in _MINUTES if minute < last), last]
    rows = [[f"{minute:.3g}", *(_best_until(run, minute * 60) for run in runs)] for minute in minutes]
    head = ["minutes in epochs", *(run.title for run in runs)]
    return (
        f"## Accuracy over time\n\nThe best validation accuracy so far.\n\n![curves]({_CURVES})\n\n{table(head, rows)}"
    )


def _best_until(run: Run, seconds: float) -> str:
    seen = [accuracy for at, accuracy in run.curve if at <= seconds + 1]
    return f"{max(seen):.2%}" if seen else _NONE


def _draw(runs: list[Run], path: Path) -> None:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "fovea", "font.family": "sans-serif"}):
        picture = Figure(figsize=(8, 4.5), layout="constrained")
        axes = picture.subplots()
        for run in runs:
            minutes, accuracies = [at / 60 for at, _ in run.curve], [accuracy for _, accuracy in run.curve]
            axes.plot(minutes, accuracies, marker="o", markersize=3, label=f"{run.title} ({run.network})")
        axes.set_xlabel("Minutes in epochs")
        axes.set_ylabel("Validation accuracy")
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        axes.set_title(f"Accuracy over time on {runs[0].dataset}")
        axes.grid(color="#e5e7eb", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, loc="lower right")
        picture.savefig(path, metadata={"Date": None})


def _speeds(speeds: list[Speed]) -> str:
    if not speeds:
        return ""
    rows = [
        [
            speed.network,
            *(str(figure(rates)) for rates in (speed.fovea, speed.keras, speed.keras_augmented)),
            f"{_ratio(speed.fovea, speed.keras):.2f}",
            f"{_ratio(speed.fovea, speed.keras_augmented):.2f}",
        ]
        for speed in speeds
    ]
    head = [
        *("network", "Fovea, augmenting", "`model.fit` on arrays", "`model.fit`, augmenting"),
        *("Fovea / arrays", "Fovea / augmenting"),
    ]
    return (
        "## Speed\n\nTraining images a second, the same network, optimizer, precision and batch size (128); the median "
        "of interleaved rounds, each a process of its own, of the second epoch. Fovea augments and averages as its "
        f"recipe says.\n\n{table(head, rows)}"
    )


def _ratio(one: list[float], other: list[float]) -> float:
    """The median of the ratios, round by round: the machine's own speed changes from one to the next."""
    found = figure(mine / theirs for mine, theirs in zip(one, other, strict=True))
    return found.median if found else 0.0


def _memory(memory: Memory | None) -> str:
    if memory is None:
        return ""
    return (
        "## A dataset that is larger than the memory\n\n"
        f"A job whose pictures take {megabytes(memory.decoded)} MB when decoded, in a control group that may take "
        f"{megabytes(memory.limit)} MB, adding the dataset and training an epoch: it succeeded, in "
        f"{number(memory.seconds)} s; the group held {megabytes(memory.peak)} MB at most, of which the kernel can take "
        "back what is only the cache of files."
    )
