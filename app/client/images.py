"""Whatever may stand for an image, made the bytes of an encoded one."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    import PIL.Image
    from numpy.typing import NDArray

    Image: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | NDArray[np.uint8] | PIL.Image.Image
    """A file's path; the bytes of an encoded image; pixels as uint8 [height, width] or [height, width, channels], with
    1 channel (grey), 3 (RGB) or 4 (RGBA); or an image of Pillow's."""

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_CHANNELS = (1, 3, 4)


def encoded(image: Image) -> bytes:
    """The bytes to send. Files and bytes go as they are; pixels are encoded as PNG, without loss.

    Pillow's images are their pixels as well: an orientation that is noted beside them is not sent.

    Raises:
        OSError: the file cannot be read.
        ValueError: there are no bytes; an address in place of a path; an array of another dtype or shape, or an image
            of Pillow's in a mode that PNG does not have.
        TypeError: something else.
    """
    if isinstance(image, str | os.PathLike):
        return _file(image)
    if isinstance(image, bytes | bytearray | memoryview):
        if not (data := bytes(image)):
            raise ValueError("There are no bytes in the image.")
        return data
    # Who hands over an array or an image has loaded the library; nobody else has to have it.
    numpy, pillow = sys.modules.get("numpy"), sys.modules.get("PIL.Image")
    if pillow is not None and isinstance(image, pillow.Image):
        return _png(image)
    if numpy is not None and isinstance(image, numpy.ndarray):
        return _png(_picture(image))
    raise TypeError(
        f"{type(image).__name__} is no image. Allowed: a path, bytes, a NumPy array of uint8, an image of Pillow's."
    )


def name_of(image: Image, default: str) -> str:
    """Path of a file, else `default`."""
    return os.fspath(image) if isinstance(image, str | os.PathLike) else default


def image_files(folder: Path) -> Iterator[Path]:
    """The files in a folder and those below it whose endings are those of images, in the order of their paths.

    What begins with a dot is left out.

    Raises:
        NotADirectoryError: it is no folder.
    """
    if not folder.is_dir():
        raise NotADirectoryError(f"There is no folder {str(folder)!r}.")
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in _SUFFIXES:  # noqa: PTH122 - many of them
                yield Path(parent) / name


def _file(path: str | os.PathLike[str]) -> bytes:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        if isinstance(path, str) and path.startswith(("http://", "https://")):
            raise ValueError(
                f"{path[:200]!r} is an address, and no file. Nobody fetches images for you: get it, and give its bytes."
            ) from error
        raise
    if not data:
        raise ValueError(f"There are no bytes in {os.fspath(path)!r}.")
    return data


def _picture(pixels: NDArray[np.uint8]) -> PIL.Image.Image:
    import PIL.Image

    grey = pixels.ndim == 2
    if pixels.dtype.name != "uint8" or pixels.ndim not in (2, 3) or not (grey or pixels.shape[2] in _CHANNELS):
        raise ValueError(
            f"An array of {pixels.dtype.name} {list(pixels.shape)} is no image. Allowed: uint8 [height, width], or "
            "[height, width, channels] with 1, 3 or 4 channels."
        )
    if pixels.size == 0:
        raise ValueError(f"An array of shape {list(pixels.shape)} has no pixels.")
    return PIL.Image.fromarray(pixels[:, :, 0] if not grey and pixels.shape[2] == 1 else pixels)


def _png(picture: PIL.Image.Image) -> bytes:
    buffer = io.BytesIO()
    try:
        # The least compression: the time for more is seldom won back on the way to the server.
        picture.save(buffer, "PNG", compress_level=1)
    except OSError as error:
        raise ValueError(
            f"An image of mode {picture.mode} cannot be sent without loss; convert('RGB') makes one that can."
        ) from error
    return buffer.getvalue()
