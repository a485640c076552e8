"""TrainingSpec: all that can be asked of a training job, with defaults that do well.

The API validates it, `spec.json` in the job's folder is it, and the trainer reads nothing else.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from app.asked import Asked
from app.jobs.networks import Architecture, check_network
from app.jobs.search import Search, check_search
from app.names import PATTERN

OptimizerName = Literal["adam", "adamw", "sgd", "rmsprop"]
_LARGEST_FACTOR = 1000
ClassWeight = Annotated[float, Field(ge=0, le=_LARGEST_FACTOR)]


def _is_factor(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _LARGEST_FACTOR


class PreprocessingSpec(Asked):
    """What of the preprocessing can be chosen; unset fields follow from the dataset."""

    height: int | None = Field(None, ge=8, le=1024, description="Rows of the input. Unset: from the images' sizes.")
    width: int | None = Field(None, ge=8, le=1024, description="Columns of the input. Unset: from the images' sizes.")
    color: Literal["rgb", "grayscale"] | None = Field(None, description="Unset: grayscale if every image is.")
    resample: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] = Field(
        "bilinear", description="Resize filter; all but `nearest` antialias when they shrink."
    )
    fit: Literal["stretch", "crop", "pad"] = Field(
        "stretch",
        description="What happens to another aspect ratio: ignored, the centre cut out, or filled with black.",
    )
    normalization: Literal["0..1", "-1..1", "standardize"] = Field(
        "standardize",
        description="Scaling inside of the model: to [0, 1], to [-1, 1], or to the training set's channel mean and "
        "standard deviation.",
    )


class Augmentation(Asked):
    """Random changes to each training image, drawn anew each epoch. Zero switches one off."""

    rotation: float = Field(0, ge=0, le=180, description="Largest rotation either way, in degrees.")
    shift: float = Field(0, ge=0, le=0.5, description="Largest shift on each axis, as a share of the size.")
    zoom: float = Field(0, ge=0, le=0.9, description="Largest zoom in or out, as a share.")
    shear: float = Field(0, ge=0, le=45, description="Largest shear, in degrees.")
    horizontal_flip: bool = Field(False, description="Mirror half of the images left to right.")
    vertical_flip: bool = Field(False, description="Mirror half of the images top to bottom.")
    brightness: float = Field(0, ge=0, le=1, description="Largest change of brightness, as a share of the range.")
    contrast: float = Field(0, ge=0, le=1, description="Largest change of contrast, as a share.")
    crop_padding: int = Field(
        0, ge=0, le=64, description="Pixels of reflected border added before a crop back to size."
    )
    cutout: int = Field(0, ge=0, le=256, description="Side of a square that is blanked, in pixels.")
    rand_augment: int = Field(
        0, ge=0, le=10, description="RandAugment: changes an image gets, each drawn from thirteen of shape and light."
    )
    rand_magnitude: float = Field(0.3, ge=0, le=1, description="How far each change of RandAugment goes.")
    mixup: float = Field(
        0,
        ge=0,
        le=4,
        description="Mix each image and its label with another one, by a share drawn from Beta(mixup, mixup).",
    )


class EarlyStopping(Asked):
    """Stop when the validation loss has not fallen for `patience` epochs."""

    patience: int = Field(
        10,
        ge=1,
        le=1000,
        description="Epochs without a lower validation loss before it stops; without `early_stopping` it never does.",
    )


class Splits(Asked):
    """Shares of the images held out, stratified by class. The rest trains."""

    validation: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="Share that chooses epochs and stops early. Unset: 0.1, but no more than about 2,500 images.",
    )
    test: float | None = Field(
        None,
        gt=0,
        lt=0.5,
        description="Share that the result is measured on, and nothing is fitted to. Unset: 0.15, but no more than "
        "about 5,000 images.",
    )


class Shapes(Asked):
    """How the built-in dataset `shapes` (vertical, horizontal and diagonal lines) is drawn."""

    images: int = Field(1000, ge=30, le=100_000, description="Images drawn, over the three classes.")
    noise: float = Field(0.0, ge=0, le=1, description="Standard deviation of noise, as a share of the range.")


class Resources(Asked):
    """What Ray sets aside for the trainer before it starts it; without Ray it has what the machine has."""

    cpus: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Cores, and the trainer's threads. Unset: `FOVEA_TRAINING_THREADS`, or 1. Used on Ray only, as the "
        "other `resources`.",
    )
    gpus: float = Field(
        0, ge=0, le=64, description="GPUs, or a share of one. A trainer on Ray sees only those that it asked for."
    )
    memory_gb: float | None = Field(
        None, gt=0, le=100_000, description="Memory in GB that a machine must have to spare. Unset: any will do."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus: {self.gpus:g} is not allowed: a share below 1, or a whole number")
        return self


class TrainingSpec(Asked):
    """A training job. Only `dataset` is required."""

    dataset: str = Field(pattern=PATTERN, description="Name of an uploaded dataset, or `shapes` or `digits`.")
    model: str | None = Field(
        None, pattern=PATTERN, description="Model to add a version to. Unset: named as the dataset."
    )
    shapes: Shapes = Field(Shapes(), description="Options of the built-in dataset `shapes`; unused by others.")
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    architecture: Architecture | None = Field(
        None,
        discriminator="name",
        description="Unset: `simple_cnn` for less than 5,000 small grayscale images, `resnet_small` for others.",
    )
    augmentation: Augmentation | None = Field(
        None, description="Unset: small shifts, zooms and rotations for grayscale, flips and crops for colour."
    )
    optimizer: OptimizerName | None = Field(
        None, description="Rule by which weights change. Unset: `sgd` for `resnet_small`, `adamw` for others."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum of `sgd`.")
    nesterov: bool = Field(True, description="Nesterov's form of the momentum of `sgd`.")
    learning_rate: float | None = Field(
        None,
        gt=0,
        le=10,
        description="Peak learning rate. Unset: 0.001 for adaptive optimizers; for `sgd` 0.05, or more where batches "
        "are larger than 64.",
    )
    schedule: Literal["constant", "step", "exponential", "cosine"] = Field(
        "cosine",
        description="Learning rate after the warm-up: the same, falling by a factor every few epochs, by the same "
        "factor each step, or to zero along half a cosine.",
    )
    step_epochs: int | None = Field(
        None, ge=1, le=10_000, description="Epochs between two falls under `step`. Unset: a third of all."
    )
    decay: float = Field(
        0.1, gt=0, le=1, description="Factor of each fall under `step`; under `exponential`, of all of training."
    )
    warmup: float = Field(
        0.1, ge=0, le=0.9, description="Share of all steps in which the learning rate rises to its peak."
    )
    weight_decay: float | None = Field(
        None,
        ge=0,
        le=1,
        description="Decoupled weight decay of the kernels. Unset: 0.0005 for adaptive optimizers, 0.0075 for `sgd`.",
    )
    label_smoothing: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Share of the true label's weight that is spread over all classes. Unset: 0 for `simple_cnn`, "
        "0.1 for others.",
    )
    class_weights: Literal["none", "balanced"] | dict[str, ClassWeight] = Field(
        "none",
        description="What a class counts in the loss: all images the same, all classes the same (`balanced`), or a "
        "factor for each class that is named, 1 for others.",
    )
    weight_average: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="Momentum of an exponential moving average of the weights; 0: none. Unset: 0.99 for long runs of "
        "`resnet_small`, 0 for others.",
    )
    mirror_average: bool | None = Field(
        None,
        description="Answer with the mean over an image and its mirror image: more accurate where left and right do "
        "not matter, at twice the cost. Unset: for colour images of at most 48 pixels that are flipped in training.",
    )
    mixed_precision: bool | Literal["auto"] = Field(
        "auto",
        description="Compute in bfloat16 where it can; weights stay float32. `auto`: where the processor has it, and "
        "the network is not `simple_cnn`.",
    )
    epochs: int | None = Field(
        None, ge=1, le=10_000, description="Most passes over the training split. Unset: by the number of its images."
    )
    batch_size: int | None = Field(
        None, ge=1, le=8192, description="Images in a step. Unset: by the number of training images."
    )
    early_stopping: EarlyStopping | None = Field(
        None,
        description="Unset: all epochs are trained. A falling learning rate ends training calmly by itself; stopping "
        "before it has fallen gives accuracy away.",
    )
    unknown_keeps: float = Field(
        0.95,
        ge=0.5,
        le=1,
        description="Share of the right answers to the validation split that are surer than the threshold of "
        "`unknown`, which is no higher than 0.9.",
    )
    splits: Splits = Splits()
    near_duplicates: Literal["group", "ignore"] = Field(
        "group",
        description="Pictures that look the same: `group` keeps them on one side of the splits, `ignore` keeps only "
        "copies of one file together.",
    )
    seed: int = Field(
        0, ge=0, lt=2**31, description="Of all that is random: splits, first weights, order, augmentation."
    )
    checkpoint_seconds: float = Field(
        60,
        ge=1,
        le=86_400,
        description="Time between two checkpoints amid an epoch; there is one after each epoch in any case. What was "
        "done since the last one is done again when a job is resumed.",
    )
    precisions: tuple[Literal["bf16", "int8"], ...] = Field(
        ("bf16", "int8"), description="Lower precisions that are measured on the test split."
    )
    precision_loss: float = Field(
        0.1,
        ge=0,
        le=5,
        description="Points of accuracy that a lower precision may lose and still be used, where it is faster.",
    )
    resources: Resources = Resources()
    promotion: Literal["manual", "if_better", "always"] = Field(
        "manual",
        description="`manual`: registered only. `if_better`: promoted if on the same test images it is shown to be "
        "better than the production version, or not worse by more than a margin. `always`: promoted.",
    )
    promotion_margin: float = Field(
        1.0, ge=0, le=50, description="Points of accuracy that `if_better` puts up with losing, where no gain is shown."
    )
    promotion_class_loss: float = Field(
        10.0,
        ge=0,
        le=100,
        description="Points of accuracy that `if_better` puts up with losing in a single class. Where a class has "
        "fewer than 20 test images, it must have lost more than chance, too.",
    )
    promotion_confidence: float = Field(
        0.95, ge=0.5, le=0.999, description="Confidence with which `if_better` must know what it says."
    )

    search: Search | None = Field(
        None, description="What to try first; the best is then trained in full. Unset: nothing is searched for."
    )

    @field_validator("architecture", mode="before")
    @classmethod
    def _network(cls, value: object) -> object:
        # pydantic would speak of tags and discriminators.
        check_network(value)
        return value

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: object) -> object:
        # pydantic would tell what is wrong with each of the ways to write them.
        if value in ("none", "balanced") or (isinstance(value, dict) and all(map(_is_factor, value.values()))):
            return value
        raise ValueError(
            f"must be 'none', 'balanced', or an object with a factor, at least 0 and at most {_LARGEST_FACTOR:,}, for "
            'each class that is named: {"cat": 2}'
        )

    @field_validator("search")
    @classmethod
    def _possible(cls, search: Search | None, info: ValidationInfo) -> Search | None:
        # Where another field is wrong that one is told first.
        others = TrainingSpec.model_fields.keys() - {"search"}
        if search is None or not others <= info.data.keys():
            return search
        spec = {
            name: value.model_dump(mode="json") if isinstance(value, BaseModel) else value
            for name, value in info.data.items()
        }
        check_search(search, spec, TrainingSpec)
        return search

    @property
    def model_name(self) -> str:
        return self.model or self.dataset
