"""The datasets that come with Fovea. The trainer makes their images; here is what they look like."""

from __future__ import annotations

from app.store.dataset_report import DatasetReport, ImageSizes, Spread

# Counts of scikit-learn's load_digits, 0 to 9.
_DIGITS = (178, 182, 177, 183, 181, 182, 181, 179, 174, 180)
# As many as a training job draws unless its spec says otherwise, the classes taking turns.
_SHAPES = {"diagonal": 334, "horizontal": 333, "vertical": 333}


def builtin_reports() -> dict[str, DatasetReport]:
    """Reports of the built-in datasets, by name."""
    digits = _report(
        "digits",
        "1,797 real handwritten digits, 8 x 8 greyscale: the UCI optical recognition set that scikit-learn ships.",
        {str(digit): count for digit, count in enumerate(_DIGITS)},
        side=8,
    )
    shapes = _report(
        "shapes",
        "Vertical, horizontal and diagonal lines, 28 x 28 greyscale, drawn for each training job: `shapes.images` "
        "of its spec says how many, `shapes.noise` with how much noise.",
        _SHAPES,
        side=28,
    )
    return {report.name: report for report in (digits, shapes)}


def _report(name: str, description: str, classes: dict[str, int], *, side: int) -> DatasetReport:
    images = sum(classes.values())
    spread = Spread(min=side, median=side, max=side)
    return DatasetReport(
        name=name,
        description=description,
        builtin=True,
        created_by="Fovea",
        images=images,
        classes=classes,
        sizes=ImageSizes(width=spread, height=spread),
        formats={"PNG": images},
        modes={"L": images},
        grayscale=True,
    )
