"""The function is pinned: every stored model was trained with just this one.

When one of these tests fails, do not change the number. Models were trained on what the function gave
before; a new behaviour is a new field of `Preprocessing`, with the old one as its default.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from app.errors import InvalidImage
from app.preprocessing import Preprocessing, to_array
from tests.preprocessing.images import encode, oriented, pattern, smooth

# SHA-256 (its first 16 digits) of the arrays made of `_picture()`, a PNG, at 24 x 32.
DIGESTS = {
    "rgb nearest stretch": "d8369a65cd3afe9e",
    "rgb nearest crop": "85f1bf2ce8149427",
    "rgb nearest pad": "b44993fee7312606",
    "rgb bilinear stretch": "124853dbf04857dc",
    "rgb bilinear crop": "a3afd087c1180510",
    "rgb bilinear pad": "02ae1f3046a229a1",
    "rgb bicubic stretch": "cee124aa8aa99166",
    "rgb bicubic crop": "7a22422cac07e73d",
    "rgb bicubic pad": "333759c9b9d2c15a",
    "rgb lanczos stretch": "d08db27a6f5d6a68",
    "rgb lanczos crop": "4ba00fd648c7738b",
    "rgb lanczos pad": "2228a2294449044c",
    "rgb box stretch": "b4e983c7dfd5bbb5",
    "rgb box crop": "65df0227435fcd81",
    "rgb box pad": "00cd53bf5dafa662",
    "grayscale nearest stretch": "d6207011e3fe177e",
    "grayscale nearest crop": "b6b20c0cec1b92f8",
    "grayscale nearest pad": "8e051e1923c6fb1c",
    "grayscale bilinear stretch": "0170165e6cd2425a",
    "grayscale bilinear crop": "ec379fa1cdb3c99e",
    "grayscale bilinear pad": "773acbe6e276a6a4",
    "grayscale bicubic stretch": "decad8839a1ea794",
    "grayscale bicubic crop": "b49444e55a85d885",
    "grayscale bicubic pad": "4f3004ba11809e35",
    "grayscale lanczos stretch": "2a1520302b1c9a0b",
    "grayscale lanczos crop": "e76c1585dbc4fec2",
    "grayscale lanczos pad": "77e90b3e88cbe90a",
    "grayscale box stretch": "0c970198bb93a751",
    "grayscale box crop": "1eb9106c86c5a43c",
    "grayscale box pad": "01f6af40905c0dfc",
}


def _picture() -> bytes:
    """Lossless, so that no two builds of a decoder can differ; with alpha, and of an odd size."""
    alpha = np.where(np.add.outer(np.arange(61), np.arange(113)) % 9 < 6, 255, 96).astype(np.uint8)
    return encode(np.dstack([pattern(61, 113), alpha]), "PNG")


def _specs() -> dict[str, Preprocessing]:
    return {
        f"{color} {resample} {fit}": Preprocessing.model_validate(
            {"height": 24, "width": 32, "color": color, "resample": resample, "fit": fit}
        )
        for color in ("rgb", "grayscale")
        for resample in ("nearest", "bilinear", "bicubic", "lanczos", "box")
        for fit in ("stretch", "crop", "pad")
    }


@pytest.mark.parametrize("name", _specs())
def test_lossless_pictures_give_these_very_bytes(name: str) -> None:
    """Each combination of colour, filter and fit gives the bytes that it always gave."""
    array = to_array(_picture(), _specs()[name])
    assert hashlib.sha256(array.tobytes()).hexdigest()[:16] == DIGESTS[name]


JPEG = (
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEExNDk7Pj4+JS5ESU"
    "M8SDc9Pjv/2wBDAQoLCw4NDhwQEBw7KCIoOzs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozs7Ozv/wAARCAAg"
    "ADADASIAAhEBAxEB/8QAHwAAAQUBAQEBAQEAAAAAAAAAAAECAwQFBgcICQoL/8QAtRAAAgEDAwIEAwUFBAQAAAF9AQIDAAQRBRIhMUEGE1FhBy"
    "JxFDKBkaEII0KxwRVS0fAkM2JyggkKFhcYGRolJicoKSo0NTY3ODk6Q0RFRkdISUpTVFVWV1hZWmNkZWZnaGlqc3R1dnd4eXqDhIWGh4iJipKT"
    "lJWWl5iZmqKjpKWmp6ipqrKztLW2t7i5usLDxMXGx8jJytLT1NXW19jZ2uHi4+Tl5ufo6erx8vP09fb3+Pn6/8QAHwEAAwEBAQEBAQEBAQAAAA"
    "AAAAECAwQFBgcICQoL/8QAtREAAgECBAQDBAcFBAQAAQJ3AAECAxEEBSExBhJBUQdhcRMiMoEIFEKRobHBCSMzUvAVYnLRChYkNOEl8RcYGRom"
    "JygpKjU2Nzg5OkNERUZHSElKU1RVVldYWVpjZGVmZ2hpanN0dXZ3eHl6goOEhYaHiImKkpOUlZaXmJmaoqOkpaanqKmqsrO0tba3uLm6wsPExc"
    "bHyMnK0tPU1dbX2Nna4uPk5ebn6Onq8vP09fb3+Pn6/9oADAMBAAIRAxEAPwDzW0XGK1YX2isqJtoqys2K/S8ZWp4WnZHlypOozXSfHerMU+e9"
    "Y0c2avW7EkV+X5njJ4mbjEzeAutjctnJIrbsz0rAtO1bdq2MVngcnc3zSR59fLeboeSiXFSJJk1QV8mrMOSa9vMcbPEz5Yn1tCimaUBJNa1qOl"
    "ZVsvSta34xV5flLm+aSPRjhuY17Y4xWjFPtHWsWObaKl+1Y717uIdPC07I7KOUuo9j/9k="
)
JPEG_AT_4_BY_4 = [
    [[5, 30, 230], [14, 81, 162], [22, 137, 36], [30, 189, 72]],
    [[12, 22, 203], [35, 60, 76], [60, 100, 47], [82, 138, 164]],
    [[22, 12, 110], [60, 35, 33], [102, 59, 128], [138, 81, 226]],
    [[29, 5, 34], [81, 13, 71], [138, 22, 205], [189, 31, 201]],
]


def test_a_jpeg_gives_these_values_within_two_levels() -> None:
    """A stored JPEG, decoded at a reduced scale; builds of the decoder may differ by two levels."""
    array = to_array(base64.b64decode(JPEG), Preprocessing(height=4, width=4))
    assert np.abs(array.astype(int) - JPEG_AT_4_BY_4).max() <= 2


def test_defaults_are_part_of_what_is_pinned() -> None:
    """A manifest may leave out what was the default when it was written."""
    assert Preprocessing(height=1, width=2).model_dump() == {
        "height": 1,
        "width": 2,
        "color": "rgb",
        "resample": "bilinear",
        "fit": "stretch",
        "scaling": "in_model",
    }


def test_the_same_bytes_give_the_same_array_in_many_threads() -> None:
    """Good and bad images of all formats, decoded in eight threads at once, come out as they do alone."""
    images = [encode(smooth(64 + i, 90), format_) for i, format_ in enumerate(["JPEG", "PNG", "WEBP", "GIF", "TIFF"])]
    images.append(encode(smooth(64, 90), "JPEG", exif=oriented(6)))
    images.append(images[0][:500])
    images.append(encode(Image.new("RGB", (16, 16)), "PNG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff"))
    spec = Preprocessing(height=20, width=20)

    def outcome(data: bytes) -> bytes | str:
        try:
            return to_array(data, spec).tobytes()
        except InvalidImage as error:
            return str(error)

    alone = [outcome(data) for data in images]
    assert sum(isinstance(result, str) for result in alone) == 1
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(8) as pool:
            together = list(pool.map(outcome, images * 40))
    finally:
        sys.setswitchinterval(interval)
    assert together == alone * 40


def test_decoding_leaves_the_process_as_it_was() -> None:
    """Warning filters and Pillow's switches belong to the process; a decoder thread must not touch them."""
    before = (list(warnings.filters), warnings.showwarning, Image.MAX_IMAGE_PIXELS)
    with pytest.raises(InvalidImage):
        to_array(encode(smooth(40, 40), "TIFF")[:-10], Preprocessing(height=4, width=4))
    assert (list(warnings.filters), warnings.showwarning, Image.MAX_IMAGE_PIXELS) == before


def test_metadata_that_pillow_warns_of_does_not_cost_the_picture() -> None:
    """A warning is no error: with the decoder's warnings on or off the answer is the same."""
    picture = smooth(16, 16)
    odd = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\xff\0\0\0\x06\0\0\0\0\0\0\0"
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        array = to_array(encode(picture, "PNG", exif=odd), Preprocessing(height=16, width=16))
    assert seen
    assert np.array_equal(array, picture)
