"""What a dataset says of itself: `report.json`."""

from __future__ import annotations

from datetime import datetime
from typing import Self

from pydantic import BaseModel, ConfigDict, Field

# One to train on and one to test on. Validation can do without a class.
LEAST_IMAGES = 2
"""Images that every class needs, so that a model can be trained."""

_STRICT = ConfigDict(frozen=True, extra="forbid")


class Spread(BaseModel):
    """Smallest, middle and largest of some numbers."""

    model_config = _STRICT

    min: int
    median: float
    max: int


class ImageSizes(BaseModel):
    """Sizes of the images in pixels, upright (EXIF orientation applied)."""

    model_config = _STRICT

    width: Spread
    height: Spread


class SmallClass(BaseModel):
    """A class with so few images that not much can be learnt of it."""

    model_config = _STRICT

    label: str
    images: int
    thumbnails: list[str] = Field(default_factory=list, description="Names of thumbnails of the first of them.")


class ExtremeSize(BaseModel):
    """An image whose size is far from that of the others."""

    model_config = _STRICT

    name: str
    width: int
    height: int
    reason: str
    thumbnail: str | None = Field(None, description="Name of its thumbnail.")


class Rejected(BaseModel):
    """A file of the archive that is not in the dataset, and why."""

    model_config = _STRICT

    name: str
    reason: str


class Duplicates(BaseModel):
    """Files with the very same bytes."""

    model_config = _STRICT

    name: str = Field(description="The first of them.")
    copies: list[str] = Field(description="The others; the first hundred.")
    labels: list[str] = Field(description="Labels that they carry; more than one is a contradiction in the data.")
    splits: list[str] = Field(default_factory=list, description="Splits that they lie in by the archive's folders.")
    thumbnails: list[str] = Field(
        default_factory=list, description="Names of thumbnails: of the first, and of copies that are not equal to it."
    )


class NearDuplicates(Duplicates):
    """Pictures that look the same, though not all of their bytes are."""


class DatasetReport(BaseModel):
    """What is in a dataset, what was left out, and what is odd about it."""

    model_config = _STRICT

    name: str
    description: str = ""
    builtin: bool = Field(False, description="Comes with Fovea; its images are made when it is trained on.")
    created_at: datetime | None = Field(None, description="When it was uploaded; unset for built-in ones.")
    created_by: str = ""
    fingerprint: str | None = Field(
        None, description="SHA-256 over the sorted paths, labels and contents of all images; unset for built-in ones."
    )
    images: int = Field(description="Usable images.")
    bytes: int = Field(0, description="Size of these, encoded.")
    classes: dict[str, int] = Field(description="Usable images of each class, sorted by label.")
    splits: dict[str, int] = Field(
        default_factory=dict, description="Images of each split that the archive's folders name; empty if none."
    )
    sizes: ImageSizes
    formats: dict[str, int] = Field(description="Images of each file format.")
    modes: dict[str, int] = Field(description="Images of each of Pillow's modes: L (grey), RGB, P (palette), …")
    grayscale: bool = Field(description="Whether no image shows any colour.")
    rejected_files: int = Field(0, description="Files of the archive that are not in the dataset.")
    rejected: list[Rejected] = Field(default_factory=list, description="These with reasons; the first thousand.")
    ignored_files: int = Field(0, description="Files that systems leave behind (.DS_Store, __MACOSX, Thumbs.db, …).")
    duplicate_files: int = Field(0, description="Images that repeat an earlier one byte for byte.")
    duplicates: list[Duplicates] = Field(
        default_factory=list, description="The repeated images; contradictions first; the first hundred."
    )
    conflicting_duplicates: int = Field(0, description="Repeated images that carry more than one label.")
    near_duplicate_files: int = Field(
        0, description="Images that look like an earlier one without being the same byte for byte."
    )
    near_duplicates: list[NearDuplicates] = Field(
        default_factory=list, description="Groups of these; contradictions first; the first hundred."
    )
    conflicting_near_duplicates: int = Field(0, description="Groups of these that carry more than one label.")
    cross_split_duplicates: int = Field(
        0, description="Groups of equal or look-alike images that lie in more than one of the archive's splits."
    )
    distinct_images: dict[str, int] = Field(
        default_factory=dict, description="Different files of each class: copies of one count once."
    )
    small_classes: list[SmallClass] = Field(
        default_factory=list, description="Classes with fewer than ten images, or a hundredth of the median class."
    )
    missing_in_splits: dict[str, list[str]] = Field(
        default_factory=dict, description="Classes that a split of the archive has no image of."
    )
    extreme_size_files: int = Field(0, description="Images that are very small, very large or very narrow.")
    extreme_sizes: list[ExtremeSize] = Field(default_factory=list, description="The first hundred of them.")
    case_twins: list[list[str]] = Field(
        default_factory=list, description="Labels that differ in case or surrounding space only: Cat and cat."
    )
    case_twin_thumbnails: dict[str, list[str]] = Field(
        default_factory=dict, description="Names of thumbnails of the first images of each of these labels."
    )
    warnings: list[str] = Field(default_factory=list, description="What should be looked at before training.")


class DatasetSummary(BaseModel):
    """A dataset in a list; its report has the rest."""

    model_config = _STRICT

    name: str
    description: str = ""
    builtin: bool = Field(False, description="Comes with Fovea; its images are made when it is trained on.")
    created_at: datetime | None = Field(None, description="When it was uploaded; unset for built-in ones.")
    created_by: str = ""
    images: int | None = Field(None, description="Usable images.")
    bytes: int | None = Field(None, description="Size of these, encoded.")
    class_count: int | None = Field(None, description="Classes that they are of.")
    sizes: ImageSizes | None = None
    grayscale: bool | None = Field(None, description="Whether no image shows any colour.")
    rejected_files: int | None = Field(None, description="Files of the archive that are not in the dataset.")
    duplicate_files: int | None = Field(None, description="Images that repeat an earlier one byte for byte.")
    near_duplicate_files: int | None = Field(
        None, description="Images that look like an earlier one without being the same byte for byte."
    )
    warning_count: int | None = Field(None, description="Warnings in its report, to be looked at before training.")
    problem: str | None = Field(
        None,
        description="Why its report cannot be read; unset normally. Nothing else is known then.",
    )

    @classmethod
    def of(cls, report: DatasetReport) -> Self:
        """The summary of a report."""
        return cls(
            name=report.name,
            description=report.description,
            builtin=report.builtin,
            created_at=report.created_at,
            created_by=report.created_by,
            images=report.images,
            bytes=report.bytes,
            class_count=len(report.classes),
            sizes=report.sizes,
            grayscale=report.grayscale,
            rejected_files=report.rejected_files,
            duplicate_files=report.duplicate_files,
            near_duplicate_files=report.near_duplicate_files,
            warning_count=len(report.warnings),
        )
