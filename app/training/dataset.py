"""From a dataset's name to arrays: choose the preprocessing, decode with it, split."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.errors import InvalidImage, TrainingFailed
from app.jobs.input_size import choose_size
from app.jobs.spec import PreprocessingSpec, TrainingSpec
from app.preprocessing import MAX_PIXELS, Preprocessing, UInt8Array, to_array
from app.store.datasets import Datasets
from app.store.manifest import DataFingerprint
from app.training.decoded import DecodedImages
from app.training.reporter import Reporter
from app.training.sources import Source, Targets, open_source
from app.training.splits import Indices, Split, split

# Bytes of images that are decoded at a time.
_CHUNK_BYTES = 16 * 2**20
_TELL_SECONDS = 10.0


@dataclass(frozen=True)
class TrainingData:
    """A source, decoded and split.

    `images`: uint8 [n, height, width, channels]; of an upload a mapped file, which can be far larger than the memory:
    take few at a time (`batches.in_pieces`). `train`, `validation`, `test`: positions that cover all n, disjoint but
    for the one exception of `Split`.
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
    spec: TrainingSpec,
    datasets: Datasets,
    reporter: Reporter,
    *,
    threads: int = 1,
    max_pixels: int = MAX_PIXELS,
    decoded: Path | None = None,
    max_decoded_bytes: int = 2**40,
) -> TrainingData:
    """Load, split and decode the dataset of `spec`, with `threads` threads.

    `decoded` is the folder for decoded uploads, which later jobs find there, with a cap on its size; None: they are
    held in memory. The built-in datasets always are: they are small, and made anew.

    Raises:
        DatasetNotFound.
        StorageFailed: also for want of room for the decoded images.
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
        reporter.phase("dataset", remark)

    def parts() -> Iterator[UInt8Array]:
        return decoded_parts(source, preprocessing, reporter, threads=threads, max_pixels=max_pixels)

    if decoded is not None and source.uploaded:
        cache = DecodedImages(decoded, max_bytes=max_decoded_bytes, check=reporter.check_cancelled, say=reporter.say)
        images = cache.open(source, preprocessing, parts)
    else:
        images = np.concatenate(list(parts()))
    return TrainingData(source, preprocessing, images, sides)


def choose_preprocessing(chosen: PreprocessingSpec, source: Source) -> Preprocessing:
    """Fill in what `chosen` leaves open from the images' own sizes and colours."""
    widths, heights = zip(*source.sizes, strict=True)
    height, width = choose_size(chosen, width=statistics.median(widths), height=statistics.median(heights))
    color = chosen.color or ("grayscale" if source.grayscale else "rgb")
    return Preprocessing(height=height, width=width, color=color, resample=chosen.resample, fit=chosen.fit)


def decoded_parts(
    source: Source, preprocessing: Preprocessing, reporter: Reporter, *, threads: int, max_pixels: int
) -> Iterator[UInt8Array]:
    """Run every image through `to_array`, in threads; uint8 [k, height, width, channels], a few MiB at a time.

    Raises:
        TrainingFailed: an image cannot be decoded; the message names it.
        Cancelled: the job was asked to stop.
    """

    def decoded(number: int) -> UInt8Array:
        try:
            return to_array(source.read(number), preprocessing, max_pixels=max_pixels)
        except InvalidImage as error:
            raise TrainingFailed(f"{source.names[number]}: {error}") from error

    total, step, told = len(source.names), _chunk(preprocessing), time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, total, step):
            numbers = range(start, min(start + step, total))
            part = np.empty((len(numbers), *preprocessing.shape), np.uint8)
            for row, array in enumerate(pool.map(decoded, numbers)):
                part[row] = array
            yield part
            reporter.check_cancelled()
            if time.monotonic() - told >= _TELL_SECONDS:
                told = time.monotonic()
                reporter.phase("dataset", f"decoded {numbers.stop:,} of {total:,} images")


def _chunk(preprocessing: Preprocessing) -> int:
    """Images that take some MiB together."""
    return max(1, _CHUNK_BYTES // int(np.prod(preprocessing.shape)))
