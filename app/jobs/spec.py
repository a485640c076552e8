"""TrainingSpec: all that can be asked of a training job, with defaults that do well.

The API validates it, `spec.json` in the job's folder is it, and the trainer reads nothing else.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.names import PATTERN

_STRICT = ConfigDict(frozen=True, extra="forbid")


class PreprocessingSpec(BaseModel):
    """What of the preprocessing can be chosen; unset fields follow from the dataset."""

    model_config = _STRICT

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


class SimpleCNN(BaseModel):
    """The classic: (convolution, pooling) a stage, then a dense layer and softmax."""

    model_config = _STRICT

    name: Literal["simple_cnn"] = Field("simple_cnn", description="The classic stack, for small and simple images.")
    filters: tuple[int, ...] = Field(
        (32, 64), min_length=1, max_length=8, description="Filters of each stage; as many stages as numbers (depth)."
    )
    kernel: int = Field(3, ge=1, le=11, description="Rows and columns of each convolution kernel.")
    convolutions: int = Field(1, ge=1, le=4, description="Convolutions in a stage, before its pooling.")
    pooling: Literal["max", "average"] = Field("max", description="What stands for each pooled square.")
    pool_size: int = Field(2, ge=2, le=4, description="Rows and columns that pooling makes one.")
    activation: Literal["relu", "leaky_relu", "elu"] = Field("relu", description="After each hidden layer.")
    dense_units: int = Field(128, ge=0, le=4096, description="Units of the dense layer; 0: none.")
    dropout: float = Field(0.25, ge=0, lt=1, description="Share of the dense layer's inputs dropped in training.")
    batch_norm: bool = Field(True, description="Batch normalisation after each convolution.")

    @model_validator(mode="after")
    def _bounded(self) -> SimpleCNN:
        _check_filters(self.filters)
        return self


class ResNetSmall(BaseModel):
    """A residual network for small images: a stem, then stages of a pooled convolution and residual blocks."""

    model_config = _STRICT

    name: Literal["resnet_small"] = Field("resnet_small", description="A residual network, for small colour images.")
    stem: int = Field(32, ge=4, le=512, description="Filters of the first convolution.")
    filters: tuple[int, ...] = Field((64, 128, 192), min_length=1, max_length=6, description="Filters of each stage.")
    blocks: int = Field(1, ge=0, le=8, description="Residual blocks in each stage.")
    activation: Literal["relu", "leaky_relu", "elu"] = Field("relu", description="After each hidden layer.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of the last features dropped in training.")

    @model_validator(mode="after")
    def _bounded(self) -> ResNetSmall:
        _check_filters(self.filters)
        return self


class Augmentation(BaseModel):
    """Random changes to each training image, drawn anew each epoch. Zero switches one off."""

    model_config = _STRICT

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


class EarlyStopping(BaseModel):
    """Stop when the validation loss has not fallen for `patience` epochs."""

    model_config = _STRICT

    patience: int = Field(
        10,
        ge=1,
        le=1000,
        description="Epochs without a lower validation loss before it stops; without `early_stopping` it never does.",
    )


class Splits(BaseModel):
    """Shares of the images held out, stratified by class. The rest trains."""

    model_config = _STRICT

    validation: float = Field(0.1, gt=0, lt=0.5, description="Share that chooses epochs and stops early.")
    test: float = Field(0.15, gt=0, lt=0.5, description="Share that the result is measured on, once.")


class Shapes(BaseModel):
    """How the built-in dataset `shapes` (vertical, horizontal and diagonal lines) is drawn."""

    model_config = _STRICT

    images: int = Field(1000, ge=30, le=100_000, description="Images drawn, over the three classes.")
    noise: float = Field(0.0, ge=0, le=1, description="Standard deviation of noise, as a share of the range.")


class TrainingSpec(BaseModel):
    """A training job. Only `dataset` is required."""

    model_config = _STRICT

    dataset: str = Field(pattern=PATTERN, description="Name of an uploaded dataset, or `shapes` or `digits`.")
    model: str | None = Field(
        None, pattern=PATTERN, description="Model to add a version to. Unset: named as the dataset."
    )
    shapes: Shapes = Field(Shapes(), description="Options of the built-in dataset `shapes`; unused by others.")
    preprocessing: PreprocessingSpec = PreprocessingSpec()
    architecture: SimpleCNN | ResNetSmall | None = Field(
        None,
        discriminator="name",
        description="Unset: `simple_cnn` for grayscale images, `resnet_small` for colour.",
    )
    augmentation: Augmentation | None = Field(
        None, description="Unset: small shifts, zooms and rotations for grayscale, flips and crops for colour."
    )
    optimizer: Literal["adam", "adamw", "sgd", "rmsprop"] = Field("adamw", description="Rule by which weights change.")
    momentum: float = Field(0.9, ge=0, lt=1, description="Nesterov momentum of `sgd`.")
    learning_rate: float | None = Field(
        None, gt=0, le=10, description="Peak learning rate. Unset: 0.001 for adaptive optimizers, 0.05 for sgd."
    )
    schedule: Literal["constant", "cosine"] = Field("cosine", description="Learning rate over the epochs.")
    warmup: float = Field(
        0.1, ge=0, le=0.9, description="Share of all steps in which the learning rate rises, under `cosine`."
    )
    weight_decay: float = Field(0.0005, ge=0, le=1, description="Decoupled weight decay of the kernels.")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="Share of the true label's weight that is spread over all classes."
    )
    weight_average: float = Field(
        0.0, ge=0, lt=1, description="Momentum of an exponential moving average of the weights; 0: none."
    )
    mirror_average: bool = Field(
        False,
        description="Answer with the mean over an image and its mirror image: more accurate where left and right do "
        "not matter, at twice the cost.",
    )
    mixed_precision: bool = Field(False, description="Compute in bfloat16 where it can; weights stay float32.")
    epochs: int = Field(30, ge=1, le=10_000, description="Most passes over the training split.")
    batch_size: int = Field(64, ge=1, le=8192, description="Images in a step.")
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
    promotion: Literal["manual", "if_better", "always"] = Field(
        "manual",
        description="`manual`: registered only. `if_better`: promoted if on the same test images it is shown to be "
        "better than the production version, or not worse by more than a margin. `always`: promoted.",
    )
    promotion_margin: float = Field(
        1.0, ge=0, le=50, description="Points of accuracy that `if_better` puts up with losing, where no gain is shown."
    )
    promotion_class_loss: float = Field(
        5.0, ge=0, le=100, description="Points of accuracy that `if_better` puts up with losing in a single class."
    )
    promotion_confidence: float = Field(
        0.95, ge=0.5, le=0.999, description="Confidence with which `if_better` must know what it says."
    )

    @property
    def model_name(self) -> str:
        return self.model or self.dataset


def _check_filters(filters: tuple[int, ...]) -> None:
    if not all(1 <= count <= 2048 for count in filters):
        raise ValueError("each number of filters must be between 1 and 2048")
