"""Pictures of a training run, as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from app.training.checkpoint import Epoch
from app.training.reliability import Bin

_TRAIN, _VALIDATION, _INK, _FAINT = "#2563eb", "#ea580c", "#1f2937", "#d1d5db"
_STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    # Text as text: it can be searched and selected, and the file stays small.
    "svg.fonttype": "none",
    # The same numbers give the same file.
    "svg.hashsalt": "fovea",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "xtick.color": _INK,
    "ytick.color": _INK,
}

# Beyond this many classes the numbers of a confusion matrix cannot be read.
_MOST_NUMBERS = 30


def draw_curves(history: list[Epoch], best_epoch: int, path: Path) -> None:
    """Loss and accuracy over the epochs, on training and validation data, with the chosen epoch marked."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(10, 4), layout="constrained")
        loss, accuracy = figure.subplots(1, 2)
        epochs = [epoch.epoch for epoch in history]
        _curve(loss, epochs, "Loss", [e.loss for e in history], [e.val_loss for e in history], best_epoch)
        _curve(
            accuracy, epochs, "Accuracy", [e.accuracy for e in history], [e.val_accuracy for e in history], best_epoch
        )
        accuracy.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        figure.savefig(path, metadata={"Date": None})


def draw_reliability(diagram: list[Bin], before: list[Bin], path: Path) -> None:
    """Accuracy over confidence, before and after calibration; the size of a dot says how many images it stands for."""
    images = sum(bin_.images for bin_ in diagram)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.5, 5), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1.2, label="Perfect")
        for bins, color, label in ((before, _VALIDATION, "Before calibration"), (diagram, _TRAIN, "Calibrated")):
            confidence, accuracy = [bin_.confidence for bin_ in bins], [bin_.accuracy for bin_ in bins]
            axes.plot(confidence, accuracy, color=color, linewidth=1.5, label=label)
            sizes = [12 + 180 * bin_.images / images for bin_ in bins]
            axes.scatter(confidence, accuracy, s=sizes, color=color, alpha=0.7, linewidths=0)
        axes.set_title("Reliability", loc="left")
        axes.set_xlabel("Highest probability")
        axes.set_ylabel("Share that is right")
        axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.grid(color=_FAINT, linewidth=0.4)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, loc="upper left")
        figure.savefig(path, metadata={"Date": None})


def draw_confusion_matrix(confusion: npt.NDArray[np.int64], labels: list[str], accuracy: float, path: Path) -> None:
    """Counts of true classes (rows) against predicted ones (columns), coloured by share of the row."""
    count = len(labels)
    numbers = count <= _MOST_NUMBERS
    side = min(14.0, max(4.5, 0.55 * count + 2.2)) if numbers else 12.0
    shares = confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(side + 0.6, side), layout="constrained")
        axes = figure.subplots()
        image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        shown = np.arange(count) if numbers else np.linspace(0, count - 1, _MOST_NUMBERS).astype(int)
        names = [labels[i] if len(labels[i]) <= 18 else labels[i][:17] + "…" for i in shown]
        # A label is a user's text: no character of it is markup.
        axes.set_xticks(shown, names, rotation=40, ha="right", rotation_mode="anchor", parse_math=False)
        axes.set_yticks(shown, names, parse_math=False)
        axes.set_xlabel("Predicted class")
        axes.set_ylabel("True class")
        axes.set_title(
            f"Confusion matrix\naccuracy {accuracy:.2%} on {confusion.sum():,} test images", loc="left", size=11
        )
        axes.tick_params(length=0)
        for spine in axes.spines.values():
            spine.set_visible(False)
        if numbers:
            for row, column in np.ndindex(count, count):
                if confusion[row, column]:
                    color = "white" if shares[row, column] > 0.55 else _INK
                    axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=color, size=9)
        bar = figure.colorbar(image, ax=axes, shrink=0.6, format=PercentFormatter(xmax=1))
        bar.set_label("Share of the true class")
        bar.outline.set_visible(False)
        figure.savefig(path, metadata={"Date": None})


def _curve(axes: Any, epochs: list[int], title: str, training: list[float], validation: list[float], best: int) -> None:
    marker = "o" if len(epochs) < 3 else None
    axes.plot(epochs, training, color=_TRAIN, label="Training", linewidth=1.8, marker=marker)
    axes.plot(epochs, validation, color=_VALIDATION, label="Validation", linewidth=1.8, marker=marker)
    axes.axvline(best, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(
        best, validation[epochs.index(best)], "o", color=_VALIDATION, markeredgecolor="white", label="Chosen epoch"
    )
    axes.set_title(title, loc="left")
    axes.set_xlabel("Epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", color=_FAINT, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.legend(frameon=False)
