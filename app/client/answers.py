"""What comes of images that were asked about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict

# A newer server may say more: what is not known here is kept, as attributes without types.
OPEN = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class Candidate(BaseModel):
    """A class that an image may be of."""

    model_config = OPEN

    label: str
    class_index: int
    probability: float


class Prediction(BaseModel):
    """What a version takes an image for."""

    model_config = OPEN

    ok: ClassVar[Literal[True]] = True

    name: str
    """Path of the file, or `image` and a number."""
    label: str
    """The class with the highest probability."""
    probability: float
    unknown: bool | None = None
    """Whether `probability` is below the version's threshold; None where it has none."""
    top: tuple[Candidate, ...]
    """As many classes as were asked for, the most probable first."""
    model: str
    version: int


class Failure(BaseModel):
    """Why one of several images was not classified."""

    model_config = OPEN

    ok: ClassVar[Literal[False]] = False

    name: str
    """Path of the file, or `image` and a number."""
    code: str
    """One of the server's codes of errors, or `unreadable_file`."""
    detail: str


Result: TypeAlias = Prediction | Failure
"""What came of one of several images: `if result.ok:` tells the two apart, for type checkers too."""


@dataclass(frozen=True)
class Explanation:
    """A picture of what a version sees in an image."""

    picture: bytes
    """PNG."""
    model: str
    version: int
    layer: str | None
    """Layer that was looked at."""
    label: str | None
    """Class that was looked for; None with the method `activations`."""
    probability: float | None
    """The version's probability for it."""
