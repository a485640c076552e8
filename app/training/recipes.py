"""What a spec leaves open, chosen from the data.

Three kinds of images are told apart. Small greyscale ones (digits, letters, shapes, symbols) may be writing: nothing
is mirrored, and the classic network is enough for a few thousand of them. Small colour ones get the residual network
that learns fastest from few pixels. Larger pictures get a deeper one, and stronger augmentation: there are seldom many.
How long training takes is bounded: passes over the data become fewer as images become more.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from app.jobs.networks import Architecture, Pretrained, ResNetSmall, SimpleCNN
from app.jobs.spec import Augmentation, OptimizerName, PreprocessingSpec, Splits, TrainingSpec
from app.preprocessing import Preprocessing

# Sides up to this many pixels make an image a small one.
_SMALL = 48

# Epochs of a network that is not the classic one: 60 for 500 training images, fewer for more, by this power; so that
# 5,000 images get 36, and 45,000 get 22.
_EPOCHS, _AT_IMAGES, _POWER = 60, 500, 0.22
_LEAST_EPOCHS, _MOST_EPOCHS = 3, 100
# However many images there are: passes of one image, which keep the residual networks below about three hours on two
# cores with bf16.
_MOST_PASSES = 2_000_000

# Greyscale images from which on the residual network beats the classic one.
_MANY = 5000

# The classic network: the same number of epochs, but more for so few images that these were hardly any steps.
_CLASSIC_EPOCHS, _CLASSIC_STEPS, _MOST_CLASSIC_EPOCHS = 30, 330, 200

# A moving average needs steps to be one of.
_AVERAGED_STEPS = 1500

# What is held out where the spec does not say: a share, but no more images than tell two good models apart (the
# standard error of 90 % of 5,000 is 0.4 points); the others do more good where they train.
_VALIDATION, _MOST_VALIDATION = 0.1, 2500
_TEST, _MOST_TEST = 0.15, 5000

_DIRECTIONS = re.compile(r"(?i)(^|[^a-z])(left|right)([^a-z]|$)")


class ChosenPreprocessing(PreprocessingSpec):
    """Preprocessing in which nothing is open any more."""

    height: int
    width: int
    color: Literal["rgb", "grayscale"]


class ChosenSplits(Splits):
    """Shares in which nothing is open any more."""

    validation: float
    test: float


class Recipe(TrainingSpec):
    """A spec in which nothing that training needs is open any more."""

    preprocessing: ChosenPreprocessing
    architecture: Architecture
    augmentation: Augmentation
    optimizer: OptimizerName
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    weight_average: float
    mirror_average: bool
    mixed_precision: bool
    step_epochs: int
    epochs: int
    batch_size: int
    splits: ChosenSplits


def choose(
    spec: TrainingSpec, *, images: int, total: int, labels: Sequence[str], preprocessing: Preprocessing, bf16: bool
) -> Recipe:
    """Fill in what `spec` leaves open; what it says stays. A recipe comes back as it is.

    Args:
        spec: what was asked for.
        images: in the training split, at least 1.
        total: images in all splits.
        labels: the names of the classes: some say that left and right matter.
        preprocessing: size and colour of the images.
        bf16: whether the machine computes in bfloat16.
    """
    architecture = _with_frozen_epochs(spec, spec.architecture or _architecture(preprocessing, images), images)
    classic = isinstance(architecture, SimpleCNN)
    residual = isinstance(architecture, ResNetSmall)
    augmentation = spec.augmentation or default_augmentation(preprocessing, labels)
    batch_size = spec.batch_size or _batch_size(architecture, images)
    epochs = spec.epochs or _epochs(architecture, images, batch_size)
    optimizer: OptimizerName = spec.optimizer or ("sgd" if residual else "adamw")
    steps = epochs * max(1, images // batch_size)
    small_colour = _is_small(preprocessing) and preprocessing.color == "rgb"
    chosen = {
        "model": spec.model_name,
        "preprocessing": _preprocessing(spec.preprocessing, preprocessing),
        "architecture": architecture,
        "augmentation": augmentation,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "epochs": epochs,
        "step_epochs": spec.step_epochs or max(1, -(-epochs // 3)),
        "splits": choose_splits(spec.splits, total),
        "learning_rate": _or(spec.learning_rate, 0.05 * max(1, batch_size / 64) if optimizer == "sgd" else 0.001),
        "weight_decay": _or(spec.weight_decay, 0.0075 if optimizer == "sgd" else 0.0005),
        "label_smoothing": _or(spec.label_smoothing, 0.0 if classic else 0.1),
        "weight_average": _or(spec.weight_average, 0.99 if residual and steps >= _AVERAGED_STEPS else 0.0),
        "mirror_average": small_colour and augmentation.horizontal_flip
        if spec.mirror_average is None
        else spec.mirror_average,
        "mixed_precision": bf16 and not classic if spec.mixed_precision == "auto" else spec.mixed_precision,
    }
    return Recipe.model_validate({**{name: getattr(spec, name) for name in TrainingSpec.model_fields}, **chosen})


def choose_splits(splits: Splits, images: int) -> ChosenSplits:
    """Shares of so many images, in all, that are held out."""
    return ChosenSplits(
        validation=_or(splits.validation, min(_VALIDATION, _MOST_VALIDATION / images)),
        test=_or(splits.test, min(_TEST, _MOST_TEST / images)),
    )


def default_augmentation(preprocessing: Preprocessing, labels: Sequence[str]) -> Augmentation:
    """What is safe without knowing the subject: nothing is mirrored that may be writing or point somewhere."""
    side = min(preprocessing.height, preprocessing.width)
    mirrored = preprocessing.color == "rgb" and not _sides_matter(labels)
    if preprocessing.color == "grayscale" and _is_small(preprocessing):
        return Augmentation(rotation=8, shift=0.08, zoom=0.08)
    if _is_small(preprocessing):
        return Augmentation(horizontal_flip=mirrored, crop_padding=max(1, side // 8), cutout=side // 4)
    return Augmentation(
        rotation=10,
        shift=0.08,
        zoom=0.2,
        horizontal_flip=mirrored,
        brightness=0.1,
        contrast=0.2,
        cutout=min(256, side // 4),
    )


def _preprocessing(spec: PreprocessingSpec, chosen: Preprocessing) -> ChosenPreprocessing:
    """What `spec` says, with the size and colour that were chosen from the images where it says nothing."""
    open_ = {name: getattr(chosen, name) for name in ("height", "width", "color") if getattr(spec, name) is None}
    return ChosenPreprocessing(**{**spec.model_dump(), **open_})


def _architecture(preprocessing: Preprocessing, images: int) -> Architecture:
    if _is_small(preprocessing):
        if preprocessing.color == "rgb":
            return ResNetSmall(whitening=True, filters=(64, 128, 256))
        return SimpleCNN() if images < _MANY else ResNetSmall(whitening=True, filters=(32, 64, 128))
    # Narrower where the pictures are larger: about the same work for each of them, and for each stage.
    side = max(preprocessing.height, preprocessing.width)
    stem = 24 if side <= 64 else 16
    filters = (32, 64, 128, 256) if side <= 64 else (24, 48, 96, 192) if side < 128 else (16, 32, 64, 128, 192)
    # Each stage halves the image; the last ones are dropped where a narrow one has nothing left to halve.
    return ResNetSmall(stem=stem, filters=filters[: min(preprocessing.height, preprocessing.width).bit_length() - 1])


def _with_frozen_epochs(spec: TrainingSpec, architecture: Architecture, images: int) -> Architecture:
    if not isinstance(architecture, Pretrained) or architecture.frozen_epochs is not None:
        return architecture
    epochs = spec.epochs or _epochs(architecture, images, 1)
    frozen = max(1, epochs // 4) if architecture.weights else 0
    return architecture.model_copy(update={"frozen_epochs": frozen})


def _batch_size(architecture: Architecture, images: int) -> int:
    if isinstance(architecture, SimpleCNN):
        return 64 if images >= 640 else 32 if images >= 160 else 16
    largest = 256 if isinstance(architecture, ResNetSmall) else 64
    # About a hundred steps an epoch, as far as these bounds allow.
    return next(
        (size for size in (256, 128, 64, 32) if size <= largest and images >= 100 * size), 16 if images < 160 else 32
    )


def _epochs(architecture: Architecture, images: int, batch_size: int) -> int:
    if isinstance(architecture, SimpleCNN):
        steps = max(1, images // batch_size)
        wanted = max(_CLASSIC_EPOCHS, min(_MOST_CLASSIC_EPOCHS, round(_CLASSIC_STEPS / steps)))
    else:
        wanted = min(_MOST_EPOCHS, round(_EPOCHS * (_AT_IMAGES / images) ** _POWER))
    return max(_LEAST_EPOCHS, min(wanted, _MOST_PASSES // images))


def _is_small(preprocessing: Preprocessing) -> bool:
    return max(preprocessing.height, preprocessing.width) <= _SMALL


def _sides_matter(labels: Sequence[str]) -> bool:
    """Whether the classes are single digits or letters, or some of them are told apart by left and right."""
    return all(len(label) == 1 for label in labels) or any(_DIRECTIONS.search(label) for label in labels)


def _or(asked: float | None, chosen: float) -> float:
    return chosen if asked is None else asked
