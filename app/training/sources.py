"""Where a job's images come from: an upload, or one of the built-in datasets."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from app.jobs.spec import TrainingSpec
from app.store.datasets import Datasets
from app.training import builtin

Targets = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Source:
    """Encoded images with labels; all lists have one entry an image, in the order of the names."""

    name: str
    labels: list[str]
    """Class names, sorted."""
    names: list[str]
    targets: Targets
    """Index of each image's label."""
    read: Callable[[int], bytes]
    """The encoded image at a position."""
    contents: list[str]
    """SHA-256 of each encoded image."""
    given: list[str | None]
    """"train", "validation" or "test" where the dataset's own folders say so."""
    sizes: list[tuple[int, int]]
    """(width, height) in pixels, upright."""
    grayscale: bool
    fingerprint: str
    groups: list[int | None] | None = None
    """Images with the same number look the same; None: nobody looked, as for the built-in datasets."""
    uploaded: bool = False
    """Whether the images are files, whose decoding is worth keeping for later jobs."""


def open_source(spec: TrainingSpec, datasets: Datasets) -> Source:
    """Find the dataset of `spec`, uploaded or built in.

    Raises:
        DatasetNotFound, StorageFailed.
    """
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
        contents=[sample.sha256 for sample in samples],
        given=[sample.split for sample in samples],
        sizes=[(sample.width, sample.height) for sample in samples],
        grayscale=all(sample.grayscale for sample in samples),
        fingerprint=dataset.fingerprint,
        groups=[sample.group for sample in samples],
        uploaded=True,
    )


def _from_memory(name: str, examples: list[tuple[str, str, bytes]]) -> Source:
    labels = sorted({label for _, label, _ in examples})
    contents = [hashlib.sha256(data).hexdigest() for _, _, data in examples]
    digest = hashlib.sha256()
    sizes = []
    for (example, label, data), content in zip(examples, contents, strict=True):
        digest.update(f"{example}\0{label}\0{content}\n".encode())
        with Image.open(io.BytesIO(data)) as image:
            sizes.append(image.size)
    return Source(
        name=name,
        labels=labels,
        names=[example for example, _, _ in examples],
        targets=np.array([labels.index(label) for _, label, _ in examples], np.int32),
        read=lambda number: examples[number][2],
        contents=contents,
        given=[None] * len(examples),
        sizes=sizes,
        grayscale=True,
        fingerprint=digest.hexdigest(),
    )
