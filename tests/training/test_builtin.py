"""The datasets that need no upload."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
from PIL import Image

from app.jobs.spec import Shapes
from app.store.builtin import builtin_reports
from app.training import builtin


def _pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))


def test_shapes_are_lines_in_three_directions() -> None:
    """Every image of `shapes` is one bright 28 x 28 line that runs the way its label says."""
    for _, label, data in builtin.shapes(Shapes(images=60), seed=0):
        pixels = _pixels(data)
        assert pixels.shape == (28, 28)
        assert set(np.unique(pixels)) == {0, 255}
        lit_rows, lit_columns = (pixels > 0).any(axis=1), (pixels > 0).any(axis=0)
        match label:
            case "vertical":
                assert lit_rows.all()
                assert lit_columns.sum() == 4
            case "horizontal":
                assert lit_columns.all()
                assert lit_rows.sum() == 4
            case "diagonal":
                rows, columns = np.nonzero(pixels)
                assert (columns - rows).max() - (columns - rows).min() == 3
            case _:
                raise AssertionError(label)


def test_noise_changes_the_picture_but_not_the_line() -> None:
    """With noise, pixels vary, and the line still stands out."""
    clean = _pixels(builtin.shapes(Shapes(images=30), seed=3)[0][2]).astype(float)
    noisy = _pixels(builtin.shapes(Shapes(images=30, noise=0.2), seed=3)[0][2]).astype(float)
    assert len(np.unique(noisy)) > 20
    assert np.corrcoef(clean.ravel(), noisy.ravel())[0, 1] > 0.6


def test_the_same_seed_draws_the_same_shapes() -> None:
    """Shapes are a function of their options and the seed."""
    options = Shapes(images=30, noise=0.1)
    assert builtin.shapes(options, seed=1) == builtin.shapes(options, seed=1)
    assert builtin.shapes(options, seed=1) != builtin.shapes(options, seed=2)


def test_the_listing_of_digits_tells_the_truth() -> None:
    """What `GET /datasets/digits` promises without scikit-learn is what scikit-learn has."""
    counts = Counter(label for _, label, _ in builtin.digits())
    report = builtin_reports()["digits"]
    assert sum(counts.values()) == 1797
    assert report.classes == dict(counts)
