"""Small pictures beside a report, so that what it says can be seen."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from app.errors import InvalidImage
from app.preprocessing import Preprocessing, to_array
from app.store.intake import CheckedImage

NAME = re.compile(r"[0-9]{4}\.png")
"""What a thumbnail's name looks like."""

_SIDE = 96
_MOST = 500


class Thumbnails:
    """Thumbnails of a dataset's images, made when first asked for, until there are enough of them."""

    def __init__(self, folder: Path, images: Path, *, max_pixels: int) -> None:
        """They go to `folder`, which is made with the first one; `images` holds the images' files."""
        self._folder = folder
        self._images = images
        self._max_pixels = max_pixels
        self._names: dict[str, str] = {}

    def of(self, image: CheckedImage) -> str | None:
        """Name of the thumbnail of `image`; None if there are enough already."""
        if image.file in self._names:
            return self._names[image.file]
        if len(self._names) >= _MOST:
            return None
        # No larger than the image: a browser enlarges what is small.
        scale = min(1.0, _SIDE / max(image.width, image.height))
        width, height = (max(1, round(side * scale)) for side in (image.width, image.height))
        try:
            pixels = to_array(
                (self._images / image.file).read_bytes(),
                Preprocessing(height=height, width=width, resample="box"),
                max_pixels=self._max_pixels,
            )
        except InvalidImage:
            return None
        self._folder.mkdir(exist_ok=True)
        name = f"{len(self._names) + 1:04d}.png"
        Image.fromarray(pixels).save(self._folder / name)
        self._names[image.file] = name
        return name

    def of_each(self, images: list[CheckedImage]) -> list[str]:
        """Names of their thumbnails, of as many as there is room for."""
        return [name for image in images if (name := self.of(image)) is not None]
