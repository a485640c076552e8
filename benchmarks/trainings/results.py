"""What was measured of training, as it is kept in `training.json`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.results import Machine

_MODEL = ConfigDict(extra="forbid")


class Run(BaseModel):
    """A training job, from its submission to its version."""

    model_config = _MODEL

    title: str
    dataset: str
    network: str
    images: int = Field(description="In the training split.")
    tested: int = Field(description="Images of the test split.")
    epochs: int
    to_first_step: float | None = Field(description="Seconds from submission; unset where no step was reported.")
    fitting: float = Field(description="Seconds in epochs.")
    seconds: float = Field(description="From submission to the end.")
    accuracy: float
    low: float
    high: float
    peak_bytes: int | None = Field(description="Anonymous memory of the trainer; unset where it was not watched.")
    curve: list[tuple[float, float]] = Field(description="Seconds in epochs so far, and the validation accuracy then.")
    note: str = ""


class Speed(BaseModel):
    """Training images a second, for each round."""

    model_config = _MODEL

    network: str
    fovea: list[float] = Field(description="As a job trains: augmentation and moving average on.")
    keras: list[float] = Field(description="`model.fit` on arrays, nothing else.")
    keras_augmented: list[float] = Field(description="`model.fit` on a `tf.data` pipeline with Keras' own layers.")


class Memory(BaseModel):
    """A dataset that is larger than the memory it may take. Bytes."""

    model_config = _MODEL

    limit: int
    decoded: int
    peak: int = Field(description="Of the group, file cache included, as the kernel counts it.")
    seconds: float


class Results(BaseModel):
    """Everything, of one or more runs of the program."""

    model_config = _MODEL

    began: datetime
    machine: Machine
    runs: dict[str, Run] = {}
    speeds: dict[str, Speed] = {}
    memory: Memory | None = None

    @classmethod
    def load(cls, path: Path, began: datetime, machine: Machine) -> Results:
        """What was measured before, to be added to; empty where nothing was."""
        if not path.exists():
            return cls(began=began, machine=machine)
        return cls.model_validate_json(path.read_bytes()).model_copy(update={"began": began, "machine": machine})

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n")
