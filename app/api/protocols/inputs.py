"""The names of inputs; and images in JSON, under such names or under none: in rows, a value an image, or in columns."""

from __future__ import annotations

from typing import Any

from app.api.protocols.encoded import check_count, decode, is_encoded, to_array
from app.errors import InvalidRequest
from app.serving.tensors import TENSOR, Image, Tensor

ENCODED = "image_bytes"
"""The input of encoded images, which every version has besides its own, of tensors."""


class InputNames:
    """The names under which the images of a request came, if under any. Only the version that answers can tell which
    are allowed."""

    __slots__ = ("_noted",)

    def __init__(self) -> None:
        self._noted: set[tuple[str, bool]] = set()
        """And whether of an encoded image."""

    def note(self, name: str | None, *, encoded: bool) -> None:
        """Remember the name under which an image came, for `check`."""
        if name is not None:
            self._noted.add((name, encoded))

    def check(self, model: str, own: str) -> None:
        """Compare the names that were there with those that the version has; `own` is its tensors'.

        Raises:
            InvalidRequest: naming them.
        """
        for name, encoded in sorted(self._noted):
            if name not in (own, TENSOR) and not (encoded and name == ENCODED):
                what = "encoded images" if encoded else "tensors"
                tensors = " or ".join(map(repr, dict.fromkeys((own, TENSOR))))
                raise InvalidRequest(
                    f"{model} has no input {name[:40]!r} for {what}. Allowed: {ENCODED!r} for encoded images, "
                    f"{tensors} for tensors."
                )


class Inputs:
    """Reads the images of one request in JSON."""

    def __init__(self, most: int) -> None:
        """`most`: images that the request may have."""
        self._most = most
        self.names = InputNames()
        """Those that were there."""

    def rows(self, rows: object, field: str) -> list[Image]:
        """The images of a list: each an encoded image, a tensor, or an object with the one or the other as its input.

        Raises:
            InvalidRequest, PayloadTooLarge: what is wrong with `field`.
        """
        if not isinstance(rows, list) or not rows:
            raise InvalidRequest(f'"{field}" has to be a list of at least one image.')
        check_count(len(rows), self._most)
        return [self._row(row, f"{field}[{index}]") for index, row in enumerate(rows)]

    def columns(self, columns: object, field: str) -> list[Image]:
        """The images of a list of encoded images, of a tensor with the images as its first dimension, or of an object
        with the one or the other as its input; errors as of `rows`."""
        name, values = self._named(columns, field)
        if not isinstance(values, list) or not values:
            raise InvalidRequest(f'"{field}" has to be a list of at least one image, or an object that has one.')
        check_count(len(values), self._most)
        encoded = any(isinstance(value, dict) for value in values)
        self.names.note(name, encoded=encoded)
        if not encoded:
            array = to_array(values, field)
            return [Tensor(array[index, ...], typed=False) for index in range(len(array))]
        images: list[Image] = []
        for index, value in enumerate(values):
            if not is_encoded(value):
                raise InvalidRequest(f"{field}[{index}] is no encoded image, an object with b64 alone, as others are.")
            images.append(decode(value, f"{field}[{index}]"))
        return images

    def _row(self, row: object, where: str) -> Image:
        name, value = self._named(row, where)
        encoded = is_encoded(value)
        self.names.note(name, encoded=encoded)
        return decode(value, where) if encoded else Tensor(to_array(value, where), typed=False)

    def _named(self, value: Any, where: str) -> tuple[str | None, Any]:
        """An input's name, if there is one, and its value."""
        if not isinstance(value, dict) or is_encoded(value):
            return None, value
        if len(value) != 1:
            raise InvalidRequest(
                f"{where}: an image comes as one input, {ENCODED!r} or the name of the model's tensor; "
                f"there are {len(value)}."
            )
        [(name, held)] = value.items()
        return name, held
