"""What is asked of the process that looks into models, and what it answers: JSON, and bytes beside it.

The server asks and the explainer answers; they share nothing else. Both ways go two pieces of bytes: a document, and
an image or picture. An answer's document begins with `+` before its `Findings`, or with `-` before a `Refusal`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

SOCKET, LOCK = "socket", "lock"
"""Files in the explainer's folder."""
TAKEN = 3
"""What an explainer exits with that finds another in its folder."""

Method = Literal["gradcam", "activations", "filters", "layers"]
LayerKind = Literal["convolution", "pooling", "activation", "other"]


class Layer(BaseModel):
    """A layer that answers an image with maps: a grid of numbers for each of its channels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(description="What `layer` of an explanation takes.")
    kind: LayerKind
    height: int = Field(description="Of its maps.")
    width: int
    channels: int = Field(description="Maps that it has.")


class Question(BaseModel):
    """What is asked. With `gradcam` and `activations` comes the image: uint8 of the version's input shape, as bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method
    store: Path = Field(description="Root of the model store.")
    model: str
    version: int
    layer: str | None = None
    label: str | None = None


class Findings(BaseModel):
    """The answer; beside it comes a PNG, but with `layers`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str | None = None
    probability: float | None = None
    layer: str | None = None
    layers: list[Layer] = []


class Refusal(BaseModel):
    """Why there is no answer: one of the domain's errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    code: str
    message: str
