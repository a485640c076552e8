"""Images a second of a job's training loop, and of what a user would write with Keras for the same network.

Each measurement is a process of its own: `python -m benchmarks.trainings.speed WAY NETWORK` prints images a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.places import REPOSITORY
from benchmarks.trainings.results import Speed

NETWORKS: dict[str, dict[str, Any]] = {
    "simple_cnn": {"architecture": {"name": "simple_cnn"}, "images": 12_800, "side": 28, "color": "grayscale"},
    "resnet_small": {"architecture": None, "images": 5_120, "side": 32, "color": "rgb"},
}
_CLASSES = 10
_BATCH = 128


def measure(network: str, rounds: int) -> Speed:
    """Take turns: a round of each way, then the next round."""
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way, found in rates.items():
            found.append(_rate(way, network))
    return Speed(network=network, **rates)


def _rate(way: str, network: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.trainings.speed", way, network],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "TF_CPP_MIN_LOG_LEVEL": "2"},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return float(done.stdout.split()[-1])


def _fovea(network: str) -> float:
    """The steps of a job, with the augmentation and the moving average that its recipe chooses."""
    from app.training.averaging import WeightAverage
    from app.training.batches import Batches
    from app.training.steps import Steps

    data, recipe, model = _prepared(network)
    batches = Batches(data, _BATCH, seed=0)
    average = WeightAverage(model, recipe.weight_average)
    steps = Steps(model, average, recipe.augmentation, batch_size=_BATCH, seed=0)

    def epoch(number: int) -> None:
        for chunk in batches.epoch(number):
            begun = time.perf_counter()
            steps.train(chunk, number)
            batches.adapt((time.perf_counter() - begun) / chunk.steps)

    return _second_epoch(epoch, batches.steps * _BATCH)


def _keras(network: str) -> float:
    """`model.fit` on arrays: no augmentation, no average."""
    data, _, model = _prepared(network)
    images, labels = _arrays(data)
    return _second_epoch(lambda _: _fit(model, images, labels, batch_size=_BATCH), len(images))


def _keras_augmented(network: str) -> float:
    """`model.fit` on a pipeline that shuffles, flips, moves and turns with Keras' layers, in parallel, ahead."""
    import keras
    import tensorflow as tf

    data, _, model = _prepared(network)
    images, labels = _arrays(data)
    change = keras.Sequential(
        [
            keras.layers.RandomFlip("horizontal"),
            keras.layers.RandomTranslation(0.1, 0.1),
            keras.layers.RandomRotation(0.03),
        ]
    )
    pipeline = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images))
        .batch(_BATCH, drop_remainder=True)
        .map(lambda pixels, label: (change(pixels, training=True), label), num_parallel_calls=tf.data.AUTOTUNE)
        .prefetch(tf.data.AUTOTUNE)
    )
    return _second_epoch(lambda _: _fit(model, pipeline), len(images))


WAYS: dict[str, Callable[[str], float]] = {"fovea": _fovea, "keras": _keras, "keras_augmented": _keras_augmented}


def _prepared(network: str) -> tuple[Any, Any, Any]:
    """Noise as a dataset, the recipe that is chosen for it, and the compiled model; the same for each way."""
    from app.jobs.spec import TrainingSpec
    from app.preprocessing import Preprocessing
    from app.training.architectures import build
    from app.training.bf16 import computes_bf16
    from app.training.dataset import TrainingData
    from app.training.normalization import choose_normalization
    from app.training.optimization import begin_phase, make_loss
    from app.training.phases import phase_of
    from app.training.recipes import choose
    from app.training.sources import Source
    from app.training.splits import Split

    asked = NETWORKS[network]
    count, side, color = asked["images"], asked["side"], asked["color"]
    labels = [f"class {number}" for number in range(_CLASSES)]
    preprocessing = Preprocessing(height=side, width=side, color=color)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count + 20, *preprocessing.shape), np.uint8)
    names = [str(number) for number in range(len(images))]
    source = Source(
        name="noise",
        labels=labels,
        names=names,
        targets=random.integers(0, _CLASSES, len(images)).astype(np.int32),
        read=lambda _: b"",
        contents=names,
        given=[None] * len(images),
        sizes=[(side, side)] * len(images),
        grayscale=color == "grayscale",
        fingerprint="0" * 64,
    )
    everything = np.arange(len(images))
    split = Split(train=everything[:-20], validation=everything[-20:-10], test=everything[-10:])
    data = TrainingData(source, preprocessing, images, split)
    spec = TrainingSpec.model_validate(
        {"dataset": "noise", "architecture": asked["architecture"], "batch_size": _BATCH}
    )
    # As for a dataset of which there are many: what the recipe leaves out of short runs is part of the work.
    recipe = choose(spec, images=50_000, total=50_000, labels=labels, preprocessing=preprocessing, bf16=computes_bf16())
    normalization = choose_normalization(recipe.preprocessing.normalization, [images[:1000]], preprocessing.channels)
    model = build(
        recipe.architecture,
        preprocessing,
        normalization,
        _CLASSES,
        seed=0,
        mixed_precision=recipe.mixed_precision,
    )
    loss = make_loss(recipe, labels, np.bincount(data.targets, minlength=_CLASSES))
    begin_phase(model, recipe, phase_of(recipe, 1), count // _BATCH, loss)
    return data, recipe, model


def _arrays(data: Any) -> tuple[Any, Any]:
    return data.images[data.train].astype(np.float32), np.eye(_CLASSES, dtype=np.float32)[data.targets[data.train]]


def _fit(model: Any, *arguments: Any, **options: Any) -> None:
    model.fit(*arguments, epochs=1, verbose=0, **options)


def _second_epoch(epoch: Callable[[int], None], images: int) -> float:
    """Images a second once the graphs are traced."""
    epoch(1)
    begun = time.perf_counter()
    epoch(2)
    return images / (time.perf_counter() - begun)


if __name__ == "__main__":
    print(WAYS[sys.argv[1]](sys.argv[2]))
