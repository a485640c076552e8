"""The weights of a network that do not start from random numbers."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np

from app.jobs.networks import Architecture, Pretrained, ResNetSmall
from app.training.dataset import TrainingData
from app.training.normalization import Normalization
from app.training.pretrained import load_weights
from app.training.whitening import sample_size, whiten


def set_initial_weights(
    network: keras.Model,
    architecture: Architecture,
    data: TrainingData,
    normalization: Normalization,
    *,
    seed: int,
    folder: Path,
) -> None:
    """Compute or load what `architecture` starts with; `folder` has the files that specs can name.

    Raises:
        TrainingFailed: the file is missing, or not one of this network.
    """
    match architecture:
        case ResNetSmall(whitening=True):
            count = min(len(data.train), sample_size(data.preprocessing.height, data.preprocessing.width))
            chosen = np.random.default_rng([seed, 5]).choice(data.train, count, replace=False)
            whiten(network, data.images[np.sort(chosen)], normalization)
        case Pretrained(weights=str()):
            load_weights(network, architecture, folder)
        case _:
            pass
