"""What a model version says of itself: `model.json`, and the entries of the promotion log."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.names import PATTERN
from app.preprocessing import Preprocessing

MANIFEST = "model.json"
GOLDEN = "golden"
EVALUATION = "evaluation"
LITERT = "model.tflite"
"""The same graph for LiteRT, which versions may carry beside the SavedModel."""
INT8 = "int8/model.xml"
"""The same graph quantized to 8-bit integers, for OpenVINO; its weights are in `int8/model.bin`."""
TRAINED_ON = "trained_on.bin"
"""Which images a version learned from: the first four bytes of the SHA-256 of each encoded image, ascending."""

Precision = Literal["f32", "bf16", "int8"]
"""What an engine computes in: float32, or bfloat16 or 8-bit integers where the processor has instructions for them."""

LowerPrecision = Literal["bf16", "int8"]

# How far golden examples may be off. bfloat16 has eight bits of mantissa: measured on 2,400 photos with a residual
# network 0.014 at most, 0.002 for nine of ten. With 8-bit integers, on 5,000: 0.08 for 99 of 100. Another model,
# scaling or order of the labels is off by more.
BF16_TOLERANCE = 0.05
INT8_TOLERANCE = 0.2


class TensorSpec(BaseModel):
    """Name, dtype and shape of a signature's tensor; -1 stands for the batch."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: Literal["uint8", "float32"]
    shape: tuple[int, ...]


class Golden(BaseModel):
    """Golden examples: `golden/<name>` are encoded images; `golden/expected.npz` holds
    `images` (uint8 [n, height, width, channels]) and `probabilities` (float32 [n, classes]) in the same order.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: list[str] = Field(min_length=1, description="File names below golden/, in the order of expected.npz.")
    tolerance: float = Field(1e-4, gt=0, description="Largest absolute difference allowed in any probability.")

    def allowed(self, precision: Precision) -> float:
        """Largest absolute difference allowed in any probability that is computed in a precision."""
        least = {"f32": 0.0, "bf16": BF16_TOLERANCE, "int8": INT8_TOLERANCE}
        return max(least[precision], self.tolerance)


class PrecisionCheck(BaseModel):
    """What became of the answers to the test split when they were computed in a lower precision."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accuracy: float = Field(ge=0, le=1, description="In this precision.")
    images: int = Field(ge=1, description="Images of the test split.")
    agreement: float = Field(ge=0, le=1, description="Share of the images that are put in the same class as in f32.")
    max_difference: float = Field(ge=0, description="Largest difference of any probability from f32.")
    bound: float = Field(0.001, ge=0, le=1, description="Loss of accuracy up to which it is used.")
    images_per_second: float | None = Field(
        None, gt=0, description="On the processor that trained. Unset in versions of earlier releases."
    )
    f32_images_per_second: float | None = Field(None, gt=0, description="The same in f32, measured beside it.")

    def harmless(self, accuracy: float) -> bool:
        """Whether nothing that matters was lost, given the accuracy in f32.

        No more accuracy than the bound, and at most one image in a hundred in another class, or ten times the bound
        where that is more. The standard error of the accuracy would be no measure: both precisions answer the very
        same images, so that their difference is known far better than either; and on a small test split it would let
        whole points pass. The agreement is for small splits too, on which gains and losses may happen to balance.
        """
        moved = max(0.01, 10 * self.bound)
        return accuracy - self.accuracy <= self.bound + 1e-9 and 1 - self.agreement <= moved + 1e-9


class Calibration(BaseModel):
    """How far probabilities can be taken at their word. Measured on the test split."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float = Field(
        gt=0, description="What the logits are divided by. It is inside of the graph; this only says which."
    )
    fitted_on: int = Field(ge=1, description="Images of the validation split, on which the temperature was fitted.")
    ece: float = Field(
        ge=0, le=1, description="Expected calibration error: mean distance of the highest probability and the accuracy."
    )
    ece_uncalibrated: float = Field(ge=0, le=1, description="The same at temperature 1.")
    images: int = Field(ge=1, description="Images of the test split.")


class UnknownThreshold(BaseModel):
    """Below which highest probability an answer had better be `unknown`: chosen on validation, measured on test."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    threshold: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=1, description="Share of the test images that are answered.")
    accuracy: float | None = Field(None, ge=0, le=1, description="Of those; unset where none is answered.")
    images: int = Field(ge=1, description="Images of the test split.")


class DataFingerprint(BaseModel):
    """Which data a version was trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dataset: str
    sha256: str = Field(description="Digest over the sorted paths, labels and contents of all images.")
    counts: dict[str, int] = Field(description="Images in each split.")


class PixelScaling(BaseModel):
    """The first layer of a network trained here, (value - mean) / deviation, for pixel values in [0, 255]."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, ...] = Field(description="Of each channel.")
    deviation: tuple[float, ...] = Field(description="Of each channel.")


class Manifest(BaseModel):
    """`model.json` of a version. The version's number is its folder's name, and stands nowhere else."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    model: str = Field(pattern=PATTERN)
    labels: list[str] = Field(min_length=2, description="Class names, in the order of the output.")
    preprocessing: Preprocessing
    input: TensorSpec
    output: TensorSpec
    activation: Literal["none", "softmax"] = Field(
        "none", description="Applied to the output by the runtime: `softmax` where the graph ends in logits."
    )
    golden: Golden
    metrics: dict[str, float] = Field(default_factory=dict, description="Measured on the held-out test split.")
    precisions: dict[str, PrecisionCheck] = Field(
        default_factory=dict,
        description="What lower precisions (`bf16`, `int8`) cost on the test split, where that was measured.",
    )
    calibration: Calibration | None = Field(None, description="Unset for imported versions, which nobody measured.")
    unknown: UnknownThreshold | None = Field(None, description="Unset for imported versions.")
    data: DataFingerprint | None = None
    training_spec: dict[str, Any] | None = None
    normalization: PixelScaling | None = Field(
        None, description="Constants with which the network of `training_spec` can be built again."
    )
    parent: int | None = Field(None, description="Version that was production when this one was trained.")
    created_at: datetime
    created_by: str = Field(description="Who or what made it: a job's id, or an import.")
    software: dict[str, str] = Field(default_factory=dict, description="Versions of what made it.")
    files: dict[str, str] = Field(
        default_factory=dict, description="SHA-256 of every other file of the version, by path relative to it."
    )

    def allows(self, precision: Precision) -> bool:
        """Whether the version may be served in a precision unasked: f32, or one that was measured to be harmless."""
        if precision == "f32":
            return True
        check, accuracy = self.precisions.get(precision), self.metrics.get("accuracy")
        return check is not None and accuracy is not None and check.harmless(accuracy)

    @model_validator(mode="after")
    def _unique_labels(self) -> Manifest:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("labels must be unique")
        return self


class PromotionDecision(BaseModel):
    """How a version compared with the production version on the same test images. Differences are in points.

    A difference is the candidate's accuracy less that of production; `low` and `high` each hold with `confidence`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Literal["better", "not_worse", "undecided", "worse", "class_lost"] = Field(
        description="`better`: more than chance. `not_worse`: by no more than the margin. `undecided`: neither could "
        "be shown. `worse`: more than chance, and perhaps by more than the margin. `class_lost`: better or not worse, "
        "but a class lost more than the bound. The first two are promoted."
    )
    candidate: int = Field(ge=1, description="The new version.")
    production: int = Field(ge=1, description="The version that was production.")
    images: int = Field(ge=1, description="Test images that both answered.")
    left_out: int = Field(0, ge=0, description="Test images left out since production was trained on them.")
    right_both: int = Field(ge=0)
    right_candidate_only: int = Field(ge=0)
    right_production_only: int = Field(ge=0)
    p_value: float = Field(ge=0, le=1, description="Of McNemar's test, exact and two-sided.")
    difference: float
    low: float
    high: float
    confidence: float = Field(gt=0, lt=1)
    margin: float = Field(ge=0, description="Loss that is put up with.")
    class_bound: float = Field(ge=0, description="Loss that is put up with in a single class.")
    worst_class: str = Field(description="The class with the largest loss, or the least gain.")
    worst_class_difference: float = Field(description="Of its share of right answers.")
    worst_class_images: int = Field(ge=1)
    lost_classes: list[str] = Field(
        default_factory=list,
        description="Classes that lost more than the bound; of those with fewer than 20 images, which lost more than "
        "chance, too.",
    )

    @property
    def promotes(self) -> bool:
        return self.verdict in ("better", "not_worse")

    @property
    def candidate_accuracy(self) -> float:
        """As a share."""
        return (self.right_both + self.right_candidate_only) / self.images

    @property
    def production_accuracy(self) -> float:
        """As a share."""
        return (self.right_both + self.right_production_only) / self.images


class Promotion(BaseModel):
    """One entry of the promotion log; the last one says which version is production."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence: int = Field(ge=1)
    version: int = Field(ge=1)
    at: datetime
    by: str
    reason: str = ""
    action: Literal["promote", "rollback"] = "promote"
    decision: PromotionDecision | None = Field(
        None, description="The comparison that it rests on; set where the policy `if_better` made one."
    )


class Refusal(BaseModel):
    """An entry of the promotion log that promotes nothing: what the policy `if_better` did not let through."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    after: int = Field(ge=1, description="Sequence of the promotion that the log ended with.")
    version: int = Field(ge=1, description="The version that was not promoted.")
    at: datetime
    by: str
    reason: str
    decision: PromotionDecision | None = Field(
        None, description="The comparison that speaks against it; unset where none could be made."
    )
