"""Arrays of pixels as small pictures for people, as PNG."""

from __future__ import annotations

import io

from PIL import Image

from app.preprocessing import UInt8Array

# About how large pictures are, in pixels: small ones are enlarged and large ones shrunk, so that a page with all of
# them stays within 3 MB even where they are all noise.
_SMALLEST, _LARGEST = 96, 128


def picture(pixels: UInt8Array) -> bytes:
    """An image [height, width, channels] as PNG, in a size for people."""
    return as_png(enlarged(pixels, _SMALLEST, _LARGEST), optimize=True)


def enlarged(pixels: UInt8Array, side: int, largest: int) -> Image.Image:
    """An image [height, width, channels] whose longer side, in pixels, suits people.

    A small one is enlarged by a whole factor, to no more than `side`, each pixel staying a square; what is longer than
    `largest` is shrunk to that.
    """
    image = image_of(pixels)
    longer = max(image.size)
    if longer > largest:
        image.thumbnail((largest, largest), Image.Resampling.LANCZOS)
        return image
    factor = max(1, side // longer)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def image_of(pixels: UInt8Array) -> Image.Image:
    """An image [height, width, channels], of one channel (grey) or three."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def as_png(image: Image.Image, *, optimize: bool = False) -> bytes:
    """A PNG file; with `optimize` somewhat smaller, for some time more."""
    written = io.BytesIO()
    image.save(written, "PNG", optimize=optimize)
    return written.getvalue()
