"""Archives to upload, honest ones and forged ones."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance


def picture(shade: int = 0, *, size: tuple[int, int] = (8, 6), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """An encoded image; another `shade`, another content."""
    colour = (shade % 256, shade // 256 % 256, 200)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def photo(seed: int, *, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth random picture, as different from that of another `seed` as two photos are."""
    coarse = np.random.default_rng([seed, 7]).integers(0, 256, (7, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image as a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def twins(image: Image.Image) -> dict[str, bytes]:
    """What becomes of one picture on its way through the world: files that differ, and look the same."""
    width, height = image.size
    return {
        "original": encoded(image),
        "re-encoded": encoded(image, "JPEG", quality=60),
        "halved": encoded(image.resize((width // 2, height // 2), Image.Resampling.LANCZOS)),
        "enlarged": encoded(image.resize((3 * width, 3 * height), Image.Resampling.BICUBIC), "WEBP"),
        "brighter": encoded(ImageEnhance.Brightness(image).enhance(1.08)),
        "one level brighter": encoded(image.point(lambda value: min(255, value + 1))),
    }


def pets(*, root: str = "", each: int = 3) -> dict[str, bytes]:
    """Two classes with `each` images, all of them different."""
    return {
        f"{root}{label}/{number}.png": picture(256 * index + number)
        for index, label in enumerate(("cat", "dog"))
        for number in range(each)
    }


def make_zip(path: Path, files: Mapping[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: Mapping[str, bytes], *, compression: str = "", form: int = tarfile.PAX_FORMAT) -> Path:
    with tarfile.open(path, f"w:{compression}", format=form) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            archive.addfile(member(name, len(data)), io.BytesIO(data))
    return path


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = size, kind, target
    return info
