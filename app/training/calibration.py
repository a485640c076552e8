"""Temperature scaling: one number, fitted on the validation split, that makes probabilities mean what they say.

After Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks" (2017). It divides the logits inside
of the exported graph; which class comes first does not change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import keras
import numpy as np

from app.preprocessing import Float32Array
from app.training.answers import answer, cross_entropy, mirrored
from app.training.architectures import finish
from app.training.dataset import TrainingData
from app.training.fit import Fitted
from app.training.reliability import expected_calibration_error, reliability, unknown_threshold
from app.training.reporter import Reporter
from app.training.sources import Targets

# Temperatures that are looked at, and how far the logarithm may be off.
_COLDEST, _HOTTEST, _PRECISION = 0.05, 20.0, 1e-4

# Standard deviation of the logarithm of temperatures as they are expected before any image was seen. It weighs about
# as much as one image. Without, a network that is right on all of a small validation split would be made sure without
# bounds; with, it stays nearly as it is.
_EXPECTED_SPREAD = 0.5

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class Calibrated:
    """A fitted network, its probabilities set right.

    `fitted.model` answers calibrated; `uncalibrated` is the same network at temperature 1. The rest was found on the
    validation split of `images` images: losses and expected calibration errors before and after, and below which
    highest probability an answer is `unknown`.
    """

    fitted: Fitted
    uncalibrated: keras.Model
    temperature: float
    unknown_below: float
    images: int
    loss_before: float
    loss: float
    ece_before: float
    ece: float


def calibrate(fitted: Fitted, data: TrainingData, reporter: Reporter) -> Calibrated:
    """Fit the temperature and the threshold of `unknown` on the validation split.

    Raises:
        Cancelled: the job was asked to stop.
    """
    recipe, targets = fitted.recipe, data.targets[data.validation]
    views = [answer(fitted.network, data, data.validation, reporter)]
    if recipe.mirror_average:
        views.append(answer(fitted.network, data, data.validation, reporter, mirrored))
    logits = np.stack(views)
    temperature = fit_temperature(logits, targets)
    before, after = probabilities(logits, 1.0), probabilities(logits, temperature)
    calibrated = Calibrated(
        fitted=replace(fitted, model=finish(fitted.network, mirrored=recipe.mirror_average, temperature=temperature)),
        uncalibrated=fitted.model,
        temperature=temperature,
        unknown_below=unknown_threshold(after, targets, recipe.unknown_keeps),
        images=len(targets),
        loss_before=cross_entropy(before, targets),
        loss=cross_entropy(after, targets),
        ece_before=expected_calibration_error(reliability(before, targets)),
        ece=expected_calibration_error(reliability(after, targets)),
    )
    reporter.say(
        f"calibrated on {len(targets):,} validation images: temperature {temperature:.3f}, calibration error "
        f"{calibrated.ece_before:.2%} before and {calibrated.ece:.2%} after; unknown below "
        f"{calibrated.unknown_below:.2f}"
    )
    return calibrated


def fit_temperature(logits: Float32Array, targets: Targets) -> float:
    """The temperature under which `targets` are likeliest, float32 logits [views, n, classes].

    Several views of an image answer with the mean of their probabilities. By golden section over the logarithm.
    """

    def cost(log_temperature: float) -> float:
        likelihood = len(targets) * cross_entropy(probabilities(logits, math.exp(log_temperature)), targets)
        return likelihood + (log_temperature / _EXPECTED_SPREAD) ** 2 / 2

    low, high = math.log(_COLDEST), math.log(_HOTTEST)
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_left, at_right = cost(left), cost(right)
    while high - low > _PRECISION:
        if at_left < at_right:
            high, right, at_right = right, left, at_left
            left = high - _GOLDEN * (high - low)
            at_left = cost(left)
        else:
            low, left, at_left = left, right, at_right
            right = low + _GOLDEN * (high - low)
            at_right = cost(right)
    return math.exp((low + high) / 2)


def probabilities(logits: Float32Array, temperature: float) -> Float32Array:
    """Softmax of float32 logits [views, n, classes] at a temperature, the mean over the views: [n, classes]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    shares: Float32Array = (powers / powers.sum(axis=-1, keepdims=True)).mean(axis=0).astype(np.float32)
    return shares
