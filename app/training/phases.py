"""Stretches of epochs that are trained in the same way."""

from __future__ import annotations

from dataclasses import dataclass

from app.jobs.networks import Pretrained
from app.training.recipes import Recipe


@dataclass(frozen=True)
class Phase:
    """`epochs` epochs from number `first` on, with a learning rate schedule and an optimizer state of their own.

    `rate`: the peak learning rate. `frozen`: whether only what comes behind the base of a pretrained network learns.
    """

    first: int
    epochs: int
    rate: float
    frozen: bool

    @property
    def last(self) -> int:
        return self.first + self.epochs - 1


def phases(recipe: Recipe) -> list[Phase]:
    """All epochs, in one phase; in two where a base is frozen at first and then fine-tuned."""
    network = recipe.architecture
    frozen = (network.frozen_epochs or 0) if isinstance(network, Pretrained) else 0
    if not frozen or not isinstance(network, Pretrained):
        return [Phase(1, recipe.epochs, recipe.learning_rate, frozen=False)]
    if frozen >= recipe.epochs:
        return [Phase(1, recipe.epochs, recipe.learning_rate, frozen=True)]
    return [
        Phase(1, frozen, recipe.learning_rate, frozen=True),
        Phase(frozen + 1, recipe.epochs - frozen, recipe.learning_rate * network.fine_tune_rate, frozen=False),
    ]


def phase_of(recipe: Recipe, epoch: int) -> Phase:
    """The phase that epoch number `epoch`, from 1, is part of; the last one for later epochs."""
    return next((phase for phase in phases(recipe) if epoch <= phase.last), phases(recipe)[-1])
