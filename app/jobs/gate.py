"""What no training can come of is refused when it is asked for, not after minutes in the queue and of decoding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from app.errors import InvalidDataset, InvalidSpec
from app.jobs.input_size import choose_size, too_small
from app.jobs.networks import WEIGHTS, Architecture, Pretrained
from app.jobs.spec import TrainingSpec
from app.store.dataset_report import LEAST_IMAGES, DatasetReport

_MOST_NAMED = 5
_MOST_CLASSES, _MOST_FILES = 20, 10


def check_submission(spec: TrainingSpec, report: DatasetReport, workspace: Path) -> None:
    """Refuse a spec that would fail for sure, as far as can be told without its images.

    What a search tries is not looked at: a trial that fails costs no job.

    Args:
        spec: what is asked for.
        report: of its dataset.
        workspace: has the folder of the files that networks can start from.

    Raises:
        InvalidDataset: no training can come of the dataset.
        InvalidSpec: the spec does not fit the dataset or the workspace; the message says what is allowed.
    """
    check_trainable(report)
    searched = {path.partition(".")[0] for path in spec.search.space} if spec.search is not None else set()
    reasons = []
    if spec.architecture is not None and "architecture" not in searched:
        reasons.append(missing_weights(spec.architecture, workspace / WEIGHTS))
        if "preprocessing" not in searched:
            median_width, median_height = report.sizes.width.median, report.sizes.height.median
            height, width = choose_size(spec.preprocessing, width=median_width, height=median_height)
            reasons.append(too_small(spec.architecture, height=height, width=width))
    if isinstance(spec.class_weights, dict) and "class_weights" not in searched:
        reasons.append(unknown_class(spec.class_weights, list(report.classes)))
    if found := [reason for reason in reasons if reason]:
        raise InvalidSpec(" ".join(found))


def missing_weights(architecture: Architecture, folder: Path) -> str | None:
    """Says that the file with which a network is to start is not in `folder`, and which are; None: nothing is amiss."""
    if not isinstance(architecture, Pretrained) or architecture.weights is None:
        return None
    if (folder / architecture.weights).is_file():
        return None
    there = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    known = f"There are: {', '.join(there[:_MOST_FILES])}" if there else "That folder has no files"
    return f"There is no weights file {architecture.weights!r} in the folder {WEIGHTS!r} of the workspace. {known}."


def unknown_class(weights: Iterable[str], labels: Sequence[str]) -> str | None:
    """Says which class that is given a weight is none of `labels`, and what they are; None: each is one."""
    unknown = sorted(set(weights) - set(labels))
    if not unknown:
        return None
    return (
        f"class_weights names {unknown[0]!r}, which is no class of the dataset. Its classes: "
        f"{', '.join(labels[:_MOST_CLASSES])}{', …' if len(labels) > _MOST_CLASSES else ''}."
    )


def check_trainable(report: DatasetReport) -> None:
    """Refuse a dataset that cannot be shared out into images to train and images to test.

    Raises:
        InvalidDataset: with the reason, and what to do.
    """
    name, classes = report.name, report.classes
    if len(classes) < 2:
        raise InvalidDataset(f"Dataset {name} has one class only, {next(iter(classes), None)!r}; two are needed.")
    if few := [label for label, images in classes.items() if images < LEAST_IMAGES]:
        raise InvalidDataset(
            f"Dataset {name} has fewer than {LEAST_IMAGES} images of {_named(few)}; every class needs one to train and "
            "one to test on. Upload the dataset anew, with more images or without the class."
        )
    # Reports of earlier releases have no such counts.
    if copies := [label for label in classes if report.distinct_images.get(label, LEAST_IMAGES) < LEAST_IMAGES]:
        raise InvalidDataset(
            f"Dataset {name} has nothing but copies of one file in {_named(copies)}: what is tested on must not have "
            "been trained on. Upload the dataset anew, with different images or without the class."
        )
    for split, use in (("train", "train"), ("test", "be tested")):
        if missing := report.missing_in_splits.get(split):
            raise InvalidDataset(
                f"The {split} split of dataset {name} has no image of {_named(missing)}, which therefore cannot {use}. "
                "Upload the dataset anew, with images of each class in it, or without that split."
            )


def _named(labels: Sequence[str]) -> str:
    shown = ", ".join(map(repr, labels[:_MOST_NAMED]))
    return f"{shown} and {len(labels) - _MOST_NAMED} more classes" if len(labels) > _MOST_NAMED else shown
