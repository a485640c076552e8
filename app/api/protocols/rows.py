"""Probabilities of all images, for protocols that know no answers in part: or the error of the first that has none."""

from __future__ import annotations

from app.errors import FoveaError, InvalidImage, InvalidRequest
from app.preprocessing import Float32Array
from app.serving.classifier import Answer


def rows_of(answer: Answer) -> list[Float32Array]:
    """Float32 [classes] of each image.

    Raises:
        FoveaError: that of the first image that could not be answered, which it names where there are several.
    """
    rows: list[Float32Array] = []
    for index, result in enumerate(answer.results):
        if isinstance(result, FoveaError):
            raise located(result, index, len(answer.results))
        rows.append(result)
    return rows


def located(error: FoveaError, index: int, count: int) -> FoveaError:
    """An error of one image among `count`, saying which it is; as it was, where it is not the image's fault."""
    if count == 1 or not isinstance(error, InvalidImage | InvalidRequest):
        return error
    return type(error)(f"The image at index {index} (of {count}, the first is 0): {error}")
