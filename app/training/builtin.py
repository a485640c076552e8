"""The datasets that need no upload: drawn lines, and scikit-learn's handwritten digits.

Both are handed out as encoded PNGs, so that they take the very road that an upload takes.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from app.jobs.spec import Shapes
from app.training.pictures import as_png

SHAPE_SIZE = 28
SHAPE_LABELS = ("diagonal", "horizontal", "vertical")
_LINE_WIDTH = 4


def shapes(options: Shapes, seed: int) -> list[tuple[str, str, bytes]]:
    """Draw bright lines on black, 28 x 28, in three directions.

    Lines lie anywhere in the middle half of the picture, so that there is something to learn.

    Returns:
        (name, label, PNG) of each image, the labels taking turns.
    """
    random = np.random.default_rng([seed, 1])
    drawn = []
    for number in range(options.images):
        label = SHAPE_LABELS[number % len(SHAPE_LABELS)]
        pixels = _line(label, int(random.integers(-SHAPE_SIZE // 4, SHAPE_SIZE // 4 + 1)))
        if options.noise:
            pixels = pixels + random.normal(0, options.noise, pixels.shape)
        image = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
        drawn.append((f"{label}/{number:06d}.png", label, as_png(Image.fromarray(image))))
    return drawn


def digits() -> list[tuple[str, str, bytes]]:
    """The 1,797 8 x 8 digits of the UCI optical recognition set that scikit-learn ships, as (name, label, PNG)."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    # 17 levels, 0 to 16, spread over 0 to 255.
    images = np.rint(loaded.images * (255 / 16)).astype(np.uint8)
    return [
        (f"{target}/{number:06d}.png", str(target), as_png(Image.fromarray(image)))
        for number, (image, target) in enumerate(zip(images, loaded.target, strict=True))
    ]


def _line(label: str, offset: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rows, columns = np.mgrid[:SHAPE_SIZE, :SHAPE_SIZE]
    across = {"vertical": columns, "horizontal": rows, "diagonal": columns - rows + SHAPE_SIZE // 2}[label]
    start = SHAPE_SIZE // 2 - _LINE_WIDTH // 2 + offset
    return np.where((across >= start) & (across < start + _LINE_WIDTH), 1.0, 0.0)
