"""From a dataset's name to arrays: choose the preprocessing, decode with it, split."""

from __future__ import annotations

import hashlib
import io
import os
import statistics
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.errors import TrainingFailed
from app.jobs.spec import PreprocessingSpec, Splits, TrainingSpec
from app.preprocessing import Preprocessing, UInt8Array, to_array
from app.store.datasets import Datasets
from app.store.manifest import DataFingerprint
from app.training import builtin
from app.training.reporter import Reporter

Indices = npt.NDArray[np.int64]
Targets = npt.NDArray[np.int32]

# Sizes that the default preprocessing chooses between, in pixels: no smaller than what two
# poolings can work with, no larger than what trains in reasonable time on processors.
_SMALLEST, _SMALL, _LARGE = 28, 64, 96

_CHUNK = 1024


@dataclass(frozen=True)
class Source:
    """Encoded images with labels, wherever they come from."""

    name: str
    labels: list[str]
    names: list[str]
    targets: Targets
    read: Callable[[int], bytes]
    sizes: list[tuple[int, int]]
    grayscale: bool
    fingerprint: str


@dataclass(frozen=True)
class TrainingData:
    """A source, decoded and split.

    `images`: uint8 [n, height, width, channels]. `train`, `validation`, `test`: disjoint positions that cover all n.
    """

    source: Source
    preprocessing: Preprocessing
    images: UInt8Array
    train: Indices
    validation: Indices
    test: Indices

    @property
    def labels(self) -> list[str]:
        return self.source.labels

    @property
    def targets(self) -> Targets:
        return self.source.targets

    def fingerprint(self) -> DataFingerprint:
        counts = {"train": len(self.train), "validation": len(self.validation), "test": len(self.test)}
        return DataFingerprint(dataset=self.source.name, sha256=self.source.fingerprint, counts=counts)


def prepare(spec: TrainingSpec, datasets: Datasets, reporter: Reporter) -> TrainingData:
    """Load, decode and split the dataset of `spec`.

    Raises:
        TrainingFailed: the dataset has too little to train on.
    """
    source = open_source(spec, datasets)
    preprocessing = choose_preprocessing(spec.preprocessing, source)
    train, validation, test = split(source.targets, source.labels, spec.splits, spec.seed)
    reporter.phase(
        "dataset",
        f"{len(source.names):,} images in {len(source.labels)} classes: {len(train):,} to train, "
        f"{len(validation):,} to validate, {len(test):,} to test, as {preprocessing.width} x {preprocessing.height} "
        f"{preprocessing.color}",
    )
    images = decode(source, preprocessing, reporter)
    return TrainingData(source, preprocessing, images, train, validation, test)


def open_source(spec: TrainingSpec, datasets: Datasets) -> Source:
    """Find the dataset, uploaded or built in."""
    match spec.dataset:
        case "shapes":
            return _from_memory("shapes", builtin.shapes(spec.shapes, spec.seed))
        case "digits":
            return _from_memory("digits", builtin.digits())
    dataset = datasets.load(spec.dataset)
    index = {label: number for number, label in enumerate(dataset.labels)}
    # By name, so that the splits do not depend on the order in which an archive was packed.
    samples = sorted(dataset.samples, key=lambda sample: sample.name)
    return Source(
        name=dataset.name,
        labels=dataset.labels,
        names=[sample.name for sample in samples],
        targets=np.array([index[sample.label] for sample in samples], np.int32),
        read=lambda number: samples[number].file.read_bytes(),
        sizes=[(sample.width, sample.height) for sample in samples],
        grayscale=all(sample.grayscale for sample in samples),
        fingerprint=dataset.fingerprint,
    )


def choose_preprocessing(chosen: PreprocessingSpec, source: Source) -> Preprocessing:
    """Fill in what `chosen` leaves open from the images' own sizes and colours."""
    width = chosen.width or _default_side([width for width, _ in source.sizes])
    height = chosen.height or _default_side([height for _, height in source.sizes])
    if chosen.width is None and chosen.height is None and max(width, height) >= _SMALL:
        width = height = max(width, height)
    color = chosen.color or ("grayscale" if source.grayscale else "rgb")
    return Preprocessing(height=height, width=width, color=color, resample=chosen.resample, fit=chosen.fit)


def split(targets: Targets, labels: list[str], splits: Splits, seed: int) -> tuple[Indices, Indices, Indices]:
    """Stratified positions to train, validate and test on; at least one image of each class in each.

    Raises:
        TrainingFailed: a class with fewer than three images.
    """
    random = np.random.default_rng([seed, 2])
    parts: tuple[list[Indices], list[Indices], list[Indices]] = ([], [], [])
    for number, label in enumerate(labels):
        members = random.permutation(np.flatnonzero(targets == number))
        if len(members) < 3:
            raise TrainingFailed(
                f"Class {label!r} has {len(members)} usable images; at least 3 are needed: one each to train, to "
                "validate and to test. Add images, or leave the class out."
            )
        test = max(1, round(len(members) * splits.test))
        validation = max(1, round(len(members) * splits.validation))
        # Tiny classes: rounding must not eat up what there is to train on.
        test, validation = (1, 1) if test + validation >= len(members) else (test, validation)
        for part, chosen in zip(
            parts, np.split(members, [len(members) - validation - test, len(members) - test]), strict=True
        ):
            part.append(chosen)
    train, validating, testing = (np.sort(np.concatenate(part)) for part in parts)
    return train, validating, testing


def decode(source: Source, preprocessing: Preprocessing, reporter: Reporter) -> UInt8Array:
    """Run every image through `to_array`, in threads; uint8 [n, height, width, channels]."""
    images = np.empty((len(source.names), *preprocessing.shape), np.uint8)
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for chunk in _chunks(len(source.names)):
            arrays = pool.map(lambda number: to_array(source.read(number), preprocessing), chunk)
            for number, array in zip(chunk, arrays, strict=True):
                images[number] = array
            reporter.check_cancelled()
    return images


def _chunks(count: int) -> Iterator[range]:
    return (range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK))


def _default_side(sides: list[int]) -> int:
    median = round(statistics.median(sides))
    return max(_SMALLEST, median) if median <= _SMALL else _LARGE


def _from_memory(name: str, examples: list[tuple[str, str, bytes]]) -> Source:
    labels = sorted({label for _, label, _ in examples})
    digest = hashlib.sha256()
    sizes = []
    for example, label, data in examples:
        digest.update(f"{example}\0{label}\0{hashlib.sha256(data).hexdigest()}\n".encode())
        with Image.open(io.BytesIO(data)) as image:
            sizes.append(image.size)
    return Source(
        name=name,
        labels=labels,
        names=[example for example, _, _ in examples],
        targets=np.array([labels.index(label) for _, label, _ in examples], np.int32),
        read=lambda number: examples[number][2],
        sizes=sizes,
        grayscale=True,
        fingerprint=digest.hexdigest(),
    )
