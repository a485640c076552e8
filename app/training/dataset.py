"""From a dataset's name to arrays: choose the preprocessing, decode with it, split."""

from __future__ import annotations

import statistics
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from app.errors import InvalidImage, TrainingFailed
from app.jobs.spec import PreprocessingSpec, TrainingSpec
from app.preprocessing import MAX_PIXELS, Preprocessing, UInt8Array, to_array
from app.store.datasets import Datasets
from app.store.manifest import DataFingerprint
from app.training.reporter import Reporter
from app.training.sources import Source, Targets, open_source
from app.training.splits import Indices, Split, split

# Sizes that the default preprocessing chooses between, in pixels: no smaller than what two
# poolings can work with, no larger than what trains in reasonable time on processors.
_SMALLEST, _SMALL, _LARGE = 28, 64, 96

_CHUNK = 1024


@dataclass(frozen=True)
class TrainingData:
    """A source, decoded and split.

    `images`: uint8 [n, height, width, channels]; of an upload a mapped file, which can be far larger than the memory:
    take few at a time. `train`, `validation`, `test`: positions that cover all n, disjoint but for the one exception
    of `Split`.
    """

    source: Source
    preprocessing: Preprocessing
    images: UInt8Array
    split: Split

    @property
    def labels(self) -> list[str]:
        return self.source.labels

    @property
    def targets(self) -> Targets:
        return self.source.targets

    @property
    def train(self) -> Indices:
        return self.split.train

    @property
    def validation(self) -> Indices:
        return self.split.validation

    @property
    def test(self) -> Indices:
        return self.split.test

    def fingerprint(self) -> DataFingerprint:
        counts = {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
        return DataFingerprint(dataset=self.source.name, sha256=self.source.fingerprint, counts=counts)


def prepare(
    spec: TrainingSpec, datasets: Datasets, reporter: Reporter, *, threads: int = 1, max_pixels: int = MAX_PIXELS
) -> TrainingData:
    """Load, split and decode the dataset of `spec`, with `threads` threads.

    Raises:
        DatasetNotFound, StorageFailed.
        TrainingFailed: the dataset has too little to train on, or an image cannot be decoded.
        Cancelled: the job was asked to stop.
    """
    source = open_source(spec, datasets)
    preprocessing = choose_preprocessing(spec.preprocessing, source)
    sides = split(source, spec.splits, spec.seed, look_alikes=spec.near_duplicates == "group")
    own = sorted({name for name in source.given if name})
    reporter.phase(
        "dataset",
        f"{len(source.names):,} images in {len(source.labels)} classes: {len(sides.train):,} to train, "
        f"{len(sides.validation):,} to validate, {len(sides.test):,} to test"
        + (f" (the dataset's own {' and '.join(own)})" if own else "")
        + f", as {preprocessing.width} x {preprocessing.height} {preprocessing.color}",
    )
    for remark in sides.remarks:
        reporter.say(remark)
    images = decode(source, preprocessing, reporter, threads=threads, max_pixels=max_pixels)
    return TrainingData(source, preprocessing, images, sides)


def choose_preprocessing(chosen: PreprocessingSpec, source: Source) -> Preprocessing:
    """Fill in what `chosen` leaves open from the images' own sizes and colours."""
    width = chosen.width or _default_side([width for width, _ in source.sizes])
    height = chosen.height or _default_side([height for _, height in source.sizes])
    if chosen.width is None and chosen.height is None and max(width, height) >= _SMALL:
        width = height = max(width, height)
    color = chosen.color or ("grayscale" if source.grayscale else "rgb")
    return Preprocessing(height=height, width=width, color=color, resample=chosen.resample, fit=chosen.fit)


def decode(
    source: Source, preprocessing: Preprocessing, reporter: Reporter, *, threads: int, max_pixels: int
) -> UInt8Array:
    """Run every image through `to_array`, in threads; uint8 [n, height, width, channels].

    Raises:
        TrainingFailed: an image cannot be decoded; the message names it.
        Cancelled: the job was asked to stop.
    """

    def decoded(number: int) -> UInt8Array:
        try:
            return to_array(source.read(number), preprocessing, max_pixels=max_pixels)
        except InvalidImage as error:
            raise TrainingFailed(f"{source.names[number]}: {error}") from error

    images = np.empty((len(source.names), *preprocessing.shape), np.uint8)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(images), _CHUNK):
            chunk = range(start, min(start + _CHUNK, len(images)))
            for number, array in zip(chunk, pool.map(decoded, chunk), strict=True):
                images[number] = array
            reporter.check_cancelled()
    return images


def _default_side(sides: list[int]) -> int:
    median = round(statistics.median(sides))
    return max(_SMALLEST, median) if median <= _SMALL else _LARGE
