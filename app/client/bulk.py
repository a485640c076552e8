"""Many images: which go in one request, and what becomes of those that fail. No network here."""

from __future__ import annotations

import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.client import calls
from app.client.answers import Failure, Result
from app.client.errors import Problem
from app.client.exchange import Call
from app.client.images import encoded, name_of

if TYPE_CHECKING:
    from app.client.images import Image

# A request is begun anew beyond this: servers take 32 MiB unless told otherwise, and proxies often less.
_REQUEST_BYTES = 8 * 2**20

_IMAGES_FAULT = frozenset({"invalid_image", "unsupported_image_format", "image_too_large"})


@dataclass(frozen=True)
class Question:
    """What is asked of every image."""

    model: str | None
    version: calls.VersionName
    top_k: int


@dataclass(frozen=True)
class Loaded:
    """An image that is ready to be sent."""

    name: str
    data: bytes


def check_arguments(images: Iterable[Image], batch: int, concurrency: int) -> None:
    """Raise ValueError or TypeError for what cannot be meant."""
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike):
        raise TypeError("That is one image; put it in a list, call predict, or predict_folder for a folder.")
    if batch < 1 or concurrency < 1:
        raise ValueError(f"batch={batch}, concurrency={concurrency} is not allowed. Allowed: whole numbers from 1 up.")


def grouped(images: Iterable[Image], size: int) -> Iterator[list[tuple[str, Image]]]:
    """The images in groups of at most `size`, each with its name; they are taken only as they are needed."""
    numbered = enumerate(images, start=1)
    while group := list(itertools.islice(numbered, size)):
        yield [(name_of(image, f"image-{number}"), image) for number, image in group]


def load(group: Sequence[tuple[str, Image]]) -> list[Loaded | Failure]:
    """Read and encode a group, each image for itself.

    Raises:
        TypeError: one of them is nothing that can be an image.
    """
    return [_load(name, image) for name, image in group]


def answers(
    group: Sequence[Loaded | Failure], question: Question
) -> Generator[Call[list[Result]], list[Result] | Problem | None, list[Result]]:
    """Ask about a group; yields the calls, is sent what came of each, and returns the results in order.

    A request that is too large for the server is cut in two.

    Raises:
        Problem: the server refuses for a reason that is no image's fault.
    """
    loaded = [image for image in group if isinstance(image, Loaded)]
    results: list[Result] = []
    waiting = list(reversed(_requests(loaded)))
    while waiting:
        part = waiting.pop()
        outcome = yield calls.predict(
            [image.data for image in part],
            [image.name for image in part],
            question.model,
            question.version,
            question.top_k,
        )
        if isinstance(outcome, Problem):
            if len(part) > 1 and _too_much(outcome):
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
                continue
            if len(part) > 1 or not (outcome.code in _IMAGES_FAULT or outcome.status == 413):
                raise outcome
            outcome = [Failure(name=part[0].name, code=outcome.code, detail=outcome.detail)]
        assert outcome is not None
        results += outcome
    found = iter(results)
    return [next(found) if isinstance(image, Loaded) else image for image in group]


def _load(name: str, image: Image) -> Loaded | Failure:
    try:
        data = encoded(image)
    except OSError as error:
        return Failure(name=name, code="unreadable_file", detail=f"The file cannot be read: {error.strerror or error}.")
    except ValueError as error:
        return Failure(name=name, code="invalid_image", detail=str(error))
    return Loaded(name, data)


def _requests(images: Sequence[Loaded]) -> list[list[Loaded]]:
    parts: list[list[Loaded]] = []
    size = 0
    for image in images:
        size += len(image.data)
        if not parts or size > _REQUEST_BYTES:
            parts.append([])
            size = len(image.data)
        parts[-1].append(image)
    return parts


def _too_much(problem: Problem) -> bool:
    # More images than the server's queue holds is an invalid request like any other, by its code.
    return problem.status == 413 or problem.code == "invalid_request"
