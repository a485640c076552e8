"""The images that are sent: made of noise from fixed seeds, so that every run sends the same bytes."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image

_TINY_SIDE = 28
_PHOTO_SIZE = (640, 480)
_QUALITY = 88
# Standard deviation of the noise at each size, coarse to fine, in grey levels: amplitudes that fall with the
# scale, as in photographs, and what a sensor adds at the end.
_OCTAVES = ((4, 3, 60.0), (12, 9, 34.0), (32, 24, 20.0), (80, 60, 12.0), (160, 120, 8.0), (320, 240, 6.0))
_GRAIN = 4.0


def line(seed: int) -> bytes:
    """A 28 x 28 grey PNG of a line, vertical, horizontal or diagonal, with some noise."""
    random = np.random.default_rng(seed)
    pixels = random.normal(24, 12, (_TINY_SIDE, _TINY_SIDE))
    place = int(random.integers(6, 20))
    match seed % 3:
        case 0:
            pixels[3:-3, place : place + 3] += 200
        case 1:
            pixels[place : place + 3, 3:-3] += 200
        case _:
            steps = np.arange(3, _TINY_SIDE - 3)
            for width in range(3):
                pixels[steps, np.clip(steps + width - 1, 0, _TINY_SIDE - 1)] += 200
    return _encode(pixels, "PNG")


def photo(seed: int) -> bytes:
    """A 640 x 480 colour JPEG with detail at all scales, of 60 to 100 kB, as a photograph has."""
    random = np.random.default_rng(seed)
    width, height = _PHOTO_SIZE
    luma = np.zeros((height, width))
    for columns, rows, deviation in _OCTAVES:
        luma += deviation * _smooth(random, columns, rows)
    # Colour changes slower than brightness does.
    chroma = np.stack([30 * _smooth(random, 6, 4) + 12 * _smooth(random, 24, 18) for _ in range(3)], axis=-1)
    pixels = random.uniform(60, 195, 3) + random.uniform(0.5, 1.2) * luma[..., None] + chroma
    return _encode(pixels + _GRAIN * random.normal(size=(height, width, 1)), "JPEG")


def _smooth(random: np.random.Generator, columns: int, rows: int) -> npt.NDArray[np.float64]:
    """Normal noise on a grid, drawn smoothly over the size of a photo: float64 [height, width]."""
    grid = Image.fromarray(random.normal(size=(rows, columns)).astype(np.float32))
    return np.asarray(grid.resize(_PHOTO_SIZE, Image.Resampling.BICUBIC), np.float64)


def _encode(pixels: npt.NDArray[np.float64], kind: str) -> bytes:
    file = io.BytesIO()
    image = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))
    image.save(file, kind, quality=_QUALITY)
    return file.getvalue()
