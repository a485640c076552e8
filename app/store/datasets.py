"""Datasets: labelled images, unpacked once from an upload, checked, and never edited.

<root>/<name>/report.json          what is in it: DatasetReport
<root>/<name>/index.jsonl          one line an image, sorted by name
<root>/<name>/images/000001.png …  the images as they were uploaded, under names of our own
<root>/<name>/thumbnails/0001.png … of images that the report names
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from app.errors import Conflict, DatasetNotFound, InvalidDataset, InvalidName, NotFound, StorageFailed
from app.names import check_name
from app.preprocessing import MAX_PIXELS
from app.store.archives.entry import Limits
from app.store.archives.opening import open_archive
from app.store.builtin import builtin_reports
from app.store.dataset_report import DatasetReport, DatasetSummary
from app.store.findings import Repeats, copies_of
from app.store.intake import CheckedImage, Intake, read_thumbs, take_in
from app.store.layout import Place
from app.store.near_duplicates import find_look_alikes
from app.store.storage import LocalStorage
from app.store.survey import place, survey
from app.store.thumbnails import NAME, Thumbnails

REPORT = "report.json"
INDEX = "index.jsonl"
IMAGES = "images"
THUMBNAILS = "thumbnails"

_LOOKS = "looks"


@dataclass(frozen=True, slots=True)
class Sample:
    """An image of a dataset. Sizes are in pixels, upright."""

    file: Path
    name: str
    """Path in the archive."""
    label: str
    sha256: str
    width: int
    height: int
    grayscale: bool
    """Whether the image shows no colour, whatever its mode."""
    split: str | None = None
    """"train", "validation" or "test" where the archive's folders say so."""
    group: int | None = None
    """Images with the same number look the same; None: none like this one was found, or none was looked for."""


@dataclass(frozen=True)
class Dataset:
    """The images of a dataset, sorted by name."""

    name: str
    labels: list[str]
    """Sorted."""
    samples: list[Sample]
    fingerprint: str
    """SHA-256 (hex) over the sorted names, labels and contents of all images."""


class Datasets:
    """Uploaded datasets in a directory, and the ones built in."""

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int = 8 * 2**30,
        max_files: int = 1_000_000,
        max_pixels: int = MAX_PIXELS,
        threads: int = 0,
    ) -> None:
        """Caps on one dataset: bytes when unpacked, files in the archive, and pixels of an image.

        `threads` check images; 0 means one for each core that this process may use.
        """
        self._storage = LocalStorage(root, what="dataset folder")
        self._limits = Limits(max_bytes=max_bytes, max_files=max_files)
        self._max_pixels = max_pixels
        self._threads = threads
        self._builtin = builtin_reports()

    def add(
        self,
        name: str,
        archive: Path,
        *,
        by: str = "",
        progress: Callable[[int, int | None], None] | None = None,
    ) -> DatasetReport:
        """Unpack, check and keep an archive: zip, tar, tar.gz or tar.bz2, told by its content.

        Every image is decoded once. What is no usable image is left out and listed in the report.

        Args:
            name: of the new dataset.
            archive: the file; it is only read.
            by: who added it, for the report.
            progress: called with the files done and, where the archive tells, their total.

        Raises:
            InvalidName.
            Conflict: there is a dataset of that name.
            InvalidDataset: the archive is damaged, dangerous, over a cap, or holds no labelled images.
            StorageFailed.
        """
        self._check_free(name)
        with self._storage.staging() as folder:
            (folder / IMAGES).mkdir()
            with open_archive(archive, self._limits) as entries:
                intake = take_in(
                    entries,
                    folder / IMAGES,
                    folder / _LOOKS,
                    self._limits,
                    max_pixels=self._max_pixels,
                    threads=self._threads,
                    progress=progress,
                )
            placed, remarks = place(intake)
            for image in intake.images:
                if image.name not in placed:
                    (folder / IMAGES / image.file).unlink()
            images = sorted((image for image in intake.images if image.name in placed), key=lambda image: image.name)
            repeats = _repeats(images, intake, folder / _LOOKS)
            (folder / _LOOKS).unlink()
            thumbnails = Thumbnails(folder / THUMBNAILS, folder / IMAGES, max_pixels=self._max_pixels)
            report = survey(name, by, images, placed, intake, remarks, repeats, thumbnails)
            _write_index(folder / INDEX, images, placed, repeats)
            (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
            if not self._storage.publish(folder, name):
                raise Conflict(_taken(name))
        return report

    def report(self, name: str) -> DatasetReport:
        """What is known of a dataset.

        Raises:
            InvalidName, DatasetNotFound, StorageFailed.
        """
        if name in self._builtin:
            return self._builtin[name]
        text = self._storage.read(f"{check_name(name, 'dataset')}/{REPORT}")
        if text is None:
            known = ", ".join([*self._names()[:20], *self._builtin])
            raise DatasetNotFound(f"There is no dataset {name!r}. There is: {known}.")
        try:
            return DatasetReport.model_validate_json(text)
        except ValidationError as error:
            raise StorageFailed(
                f"The {REPORT} of dataset {name} is damaged; add the dataset anew, under another name."
            ) from error

    def load(self, name: str) -> Dataset:
        """The images of an uploaded dataset. Their files are not read.

        Raises:
            InvalidName, DatasetNotFound, StorageFailed.
            InvalidDataset: it is built in, and has no files.
        """
        report = self.report(name)
        if report.builtin:
            raise InvalidDataset(f"Dataset {name} is built in: its images are made when it is trained on.")
        folder = self._storage.local(name)
        try:
            samples = [_sample(folder, line) for line in (self._storage.read(f"{name}/{INDEX}") or b"").splitlines()]
        except (ValueError, KeyError, TypeError) as error:
            raise StorageFailed(
                f"The {INDEX} of dataset {name} is damaged; add the dataset anew, under another name."
            ) from error
        if len(samples) != report.images:
            raise StorageFailed(_damaged(INDEX, name))
        return Dataset(name, sorted(report.classes), samples, report.fingerprint or "")

    def thumbnail(self, name: str, file: str) -> Path:
        """The PNG of that name, which the dataset's report gives.

        Raises:
            InvalidName, DatasetNotFound, StorageFailed.
            NotFound: there is no such thumbnail.
        """
        self.report(name)
        path = self._storage.local(f"{name}/{THUMBNAILS}") / file
        if NAME.fullmatch(file) is None or name in self._builtin or not path.is_file():
            raise NotFound(f"Dataset {name} has no such thumbnail. Its report names those that there are.")
        return path

    def clean(self) -> int:
        """Remove what processes that died left in staging. Call it at start; it never harms the living."""
        return self._storage.clean()

    def list(self) -> Sequence[DatasetSummary]:
        """All datasets: the uploaded ones by name, then the built-in ones. A damaged one has a `problem`.

        Raises:
            StorageFailed: the folder of all datasets cannot be read.
        """
        uploaded = [summary for name in self._names() if (summary := self._summary(name)) is not None]
        return [*uploaded, *map(DatasetSummary.of, self._builtin.values())]

    def _summary(self, name: str) -> DatasetSummary | None:
        try:
            return DatasetSummary.of(self.report(name))
        except StorageFailed as error:
            return DatasetSummary(name=name, problem=str(error))
        except DatasetNotFound:
            return None  # removed by hand since its folder was seen

    def _check_free(self, name: str) -> None:
        if name in self._builtin:
            raise Conflict(f"{name!r} is the name of a built-in dataset. Choose another name.")
        if check_name(name, "dataset") in self._storage.folders(""):
            raise Conflict(_taken(name))

    def _names(self) -> Sequence[str]:
        return sorted(
            name
            for name in self._storage.folders("")
            if _is_name(name) and name not in self._builtin and REPORT in self._storage.files(name)
        )


def _taken(name: str) -> str:
    return f"There is a dataset {name!r} already, and datasets are never changed. Choose another name."


def _damaged(file: str, name: str) -> str:
    return f"The {file} of dataset {name} is damaged; add the dataset anew, under another name."


def _repeats(images: Sequence[CheckedImage], intake: Intake, looks: Path) -> Repeats:
    """What repeats itself in `images`, of which `looks` has the thumbnails in the order of the intake."""
    copies = copies_of(images)
    places = {image.name: row for row, image in enumerate(intake.images)}
    rows = [places[image.name] for image in images]
    stored = read_thumbs(looks)
    alike = find_look_alikes(
        [intake.hashes[row] for row in rows], lambda chosen: stored[[rows[position] for position in chosen]], copies
    )
    return Repeats(copies, alike)


def _write_index(file: Path, images: Sequence[CheckedImage], places: Mapping[str, Place], repeats: Repeats) -> None:
    groups = {position: number for number, group in enumerate(repeats.look_alikes.groups) for position in group}
    with file.open("x", encoding="utf-8") as out:
        for position, image in enumerate(images):
            place = places[image.name]
            line = {
                "file": f"{IMAGES}/{image.file}",
                "name": image.name,
                "label": place.label,
                "split": place.split,
                "sha256": image.sha256,
                "width": image.width,
                "height": image.height,
                "grayscale": image.grayscale,
                "group": groups.get(position),
            }
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


def _sample(folder: Path, line: bytes) -> Sample:
    fields = json.loads(line)
    return Sample(
        file=folder / fields["file"],
        name=fields["name"],
        label=fields["label"],
        sha256=fields["sha256"],
        width=fields["width"],
        height=fields["height"],
        grayscale=fields["grayscale"],
        split=fields["split"],
        # Datasets of earlier releases have none.
        group=fields.get("group"),
    )


def _is_name(name: str) -> bool:
    try:
        check_name(name, "dataset")
    except InvalidName:
        return False
    return True
