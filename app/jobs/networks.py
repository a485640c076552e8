"""The networks that a spec can ask for, with their fields."""

from __future__ import annotations

import re
from typing import Literal, get_args

from pydantic import BaseModel, Field, field_validator, model_validator

from app.asked import Asked

WEIGHTS = "weights"
"""Folder of the workspace with the files that networks can start from."""

_WEIGHTS_FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.(h5|keras)$"

Activation = Literal["relu", "leaky_relu", "elu"]
Pooling = Literal["max", "average"]


class SimpleCNN(Asked):
    """The classic: (convolution, pooling) a stage, then a dense layer and softmax."""

    name: Literal["simple_cnn"] = Field("simple_cnn", description="The classic stack, for small and simple images.")
    filters: tuple[int, ...] = Field(
        (32, 64), min_length=1, max_length=8, description="Filters of each stage; as many stages as numbers (depth)."
    )
    kernel: int = Field(3, ge=1, le=11, description="Rows and columns of each convolution kernel.")
    convolutions: int = Field(1, ge=1, le=4, description="Convolutions in a stage, before its pooling.")
    residual: bool = Field(False, description="Add what went into a stage's convolutions to what comes out of them.")
    pooling: Pooling = Field("max", description="What stands for each pooled square.")
    pool_size: int = Field(2, ge=2, le=4, description="Rows and columns that pooling makes one.")
    activation: Activation = Field("relu", description="After each hidden layer.")
    dense_units: int = Field(128, ge=0, le=4096, description="Units of the dense layer; 0: none.")
    dropout: float = Field(0.25, ge=0, lt=1, description="Share of the dense layer's inputs dropped in training.")
    batch_norm: bool = Field(True, description="Batch normalisation after each convolution.")

    @model_validator(mode="after")
    def _bounded(self) -> SimpleCNN:
        _check_filters(self.filters)
        return self


class ResNetSmall(Asked):
    """A residual network for small images: a stem, then stages of a pooled convolution and residual blocks."""

    name: Literal["resnet_small"] = Field("resnet_small", description="A residual network, for small colour images.")
    stem: int = Field(32, ge=4, le=512, description="Filters of the first convolution; unused with `whitening`.")
    whitening: bool = Field(
        False,
        description="Make the first convolution one of 2 x 2 that decorrelates neighbouring pixels, computed from the "
        "training images and then fixed: training gets ahead faster.",
    )
    filters: tuple[int, ...] = Field((64, 128, 192), min_length=1, max_length=6, description="Filters of each stage.")
    blocks: int = Field(1, ge=0, le=8, description="Residual blocks in each stage.")
    kernel: int = Field(3, ge=1, le=7, description="Rows and columns of each convolution kernel.")
    pooling: Pooling = Field(
        "max", description="What stands for each pooled square of 2 x 2, and for a filter at last."
    )
    activation: Activation = Field("relu", description="After each hidden layer.")
    dense_units: int = Field(0, ge=0, le=4096, description="Units of a dense layer before the last one; 0: none.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the last features dropped in training.")
    batch_norm: bool = Field(True, description="Batch normalisation after each convolution.")

    @model_validator(mode="after")
    def _bounded(self) -> ResNetSmall:
        _check_filters(self.filters)
        return self


class Pretrained(Asked):
    """A network of `keras.applications`, from a random start or with the weights of a local file."""

    name: Literal[
        "mobilenet_v2",
        "mobilenet_v3_small",
        "mobilenet_v3_large",
        "efficientnet_v2_b0",
        "resnet50_v2",
        "densenet121",
        "convnext_tiny",
    ] = Field(description="A network of `keras.applications`, without its last layer.")
    width: float = Field(
        1.0, ge=0.35, le=1.4, description="Factor on all numbers of filters; other than 1 for the mobilenets only."
    )
    weights: str | None = Field(
        None,
        pattern=_WEIGHTS_FILE,
        description="File in the folder `weights` of the workspace to start from. Unset: a random start. Nothing is "
        "ever downloaded.",
    )
    frozen_epochs: int | None = Field(
        None,
        ge=0,
        le=1000,
        description="First epochs in which only the last layer is trained. Unset: a quarter of the epochs with "
        "`weights`, none without.",
    )
    fine_tune_rate: float = Field(
        0.1, gt=0, le=1, description="Share of the peak learning rate for the epochs after the frozen ones."
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="Share of the last features dropped in training.")

    @field_validator("weights", mode="before")
    @classmethod
    def _file_name(cls, value: object) -> object:
        if value is None or (isinstance(value, str) and re.fullmatch(_WEIGHTS_FILE, value)):
            return value
        raise ValueError(
            f"must be the name of a file in the folder {WEIGHTS!r} of the workspace that ends in .h5 or .keras: "
            "letters, digits, '.', '_' and '-', the first of them a letter or a digit, at most 121 before the ending, "
            "and no folder"
        )

    @model_validator(mode="after")
    def _possible(self) -> Pretrained:
        if self.width != 1 and not self.name.startswith("mobilenet"):
            raise ValueError(f"{self.name} has one width: leave `width` out, or use a mobilenet")
        if self.frozen_epochs and self.weights is None:
            raise ValueError("frozen_epochs needs `weights`: a random start that stays frozen learns nothing")
        return self


Architecture = SimpleCNN | ResNetSmall | Pretrained


def check_network(asked: object) -> None:
    """Refuse what names none of the networks.

    Raises:
        ValueError: with what is allowed.
    """
    if asked is None or isinstance(asked, BaseModel):
        return
    names = [name for network in get_args(Architecture) for name in get_args(network.model_fields["name"].annotation)]
    allowed = f"Allowed: {', '.join(map(repr, names))}"
    if not isinstance(asked, dict):
        raise ValueError(f'must be an object with the name of a network: {{"name": "{names[0]}"}}. {allowed}')
    if "name" not in asked:
        raise ValueError(f"its name is missing, which says which network the other fields are for. {allowed}")
    if asked["name"] not in names:
        raise ValueError(f"there is no network of this name. {allowed}")


def _check_filters(filters: tuple[int, ...]) -> None:
    if not all(1 <= count <= 2048 for count in filters):
        raise ValueError("each number of filters must be between 1 and 2048")
