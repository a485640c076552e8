"""What no training can come of is refused when it is asked for, not after minutes in the queue."""

from __future__ import annotations

from collections.abc import Sequence

from app.errors import InvalidDataset
from app.store.dataset_report import LEAST_IMAGES, DatasetReport

_MOST_NAMED = 5


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
