"""`{"instances": [...]}` as the hosting platforms send it: encoded images, or tensors, one an instance."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from app.api.protocols.encoded import check_count, decode, is_encoded, to_array
from app.errors import InvalidRequest
from app.serving.tensors import Image, Tensor


def check_fields(document: dict[str, Any], allowed: Collection[str], where: str = "The body") -> None:
    """Refuse fields that do not exist: a typing error must not quietly mean the default.

    Raises:
        InvalidRequest: naming one, and those that do.
    """
    if unknown := sorted(document.keys() - set(allowed)):
        raise InvalidRequest(f"{where} has an unknown field {unknown[0][:40]!r}. Allowed: {', '.join(allowed)}.")


def read_instances(document: dict[str, Any], most: int) -> list[Image]:
    """The images of a body's `instances`: `{"b64": ...}`, bare or under one key, or nested lists of numbers.

    Raises:
        InvalidRequest: naming the instance that is wrong.
        PayloadTooLarge: there are more than `most`.
    """
    values = document.get("instances")
    if not isinstance(values, list) or not values:
        raise InvalidRequest(
            'The body needs "instances", a list of at least one image: {"instances": [{"b64": "..."}]}.'
        )
    check_count(len(values), most)
    return [_image(value, f"instances[{index}]") for index, value in enumerate(values)]


def _image(value: Any, where: str) -> Image:
    if isinstance(value, dict) and not is_encoded(value):
        if len(value) != 1:
            raise InvalidRequest(
                f'{where}: an instance is {{"b64": "..."}}, such an object under one key, or the nested lists of a '
                f"tensor; this object has {len(value)} keys."
            )
        [value] = value.values()
    return decode(value, where) if is_encoded(value) else Tensor(to_array(value, where), typed=False)
