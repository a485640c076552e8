"""What a run measured, as it is kept in `results.json`."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from benchmarks.limits import Parts

_MODEL = ConfigDict(extra="forbid")


class Machine(BaseModel):
    """Where it was measured."""

    model_config = _MODEL

    processor: str
    cores: int
    extensions: list[str] = Field(description="Those that inference gains from.")
    memory_bytes: int
    system: str
    software: dict[str, str]


class LoadSample(BaseModel):
    """One run of wrk. Times in seconds; `server_cpu` and `client_cpu` are processor seconds."""

    model_config = _MODEL

    rate: float = Field(description="Good requests a second.")
    p50: float
    p99: float
    refused: int
    failed: int
    requests: int
    seconds: float
    server_cpu: float
    client_cpu: float


class Sample(BaseModel):
    """One server in one round."""

    model_config = _MODEL

    round: int
    workload: str
    server: str
    engine: str | None = Field(None, description="What the product says that runs the version; unset for others.")
    cold_start: float = Field(description="Seconds from the start of the process to the first answer, which is right.")
    resident: int = Field(description="Bytes after the load, shared ones counted in each process.")
    proportional: int = Field(description="Bytes after the load, shared ones counted once.")
    processes: int
    loads: dict[str, LoadSample]


class PartsSample(BaseModel):
    """The in-process limits of one round, in images or requests a second."""

    model_config = _MODEL

    round: int
    workload: str
    decode: dict[str, float]
    engine: dict[str, float]
    http: dict[str, float]


class Choice(BaseModel):
    """The settings that were tried of a server, in requests a second at 32 at a time, and the best of them."""

    model_config = _MODEL

    workload: str
    server: str
    chosen: str
    tried: dict[str, float]


class Results(BaseModel):
    """A whole run, and the latest result of each scenario."""

    model_config = _MODEL

    machine: Machine
    began: datetime
    rounds: int
    seconds: float
    servers: dict[str, str] = Field(default_factory=dict, description="Titles of the servers, by name.")
    peers: list[str] = Field(default_factory=list)
    precisions: dict[str, str] = Field(default_factory=dict)
    skipped: dict[str, str] = Field(default_factory=dict, description="Servers that were not timed, and why.")
    choices: list[Choice] = Field(default_factory=list)
    starts: dict[str, list[float]] = Field(
        default_factory=dict, description="Seconds to the first answer of further starts, by workload and server."
    )
    samples: list[Sample] = Field(default_factory=list)
    parts: list[PartsSample] = Field(default_factory=list)
    scenarios: dict[str, dict[str, Any]] = Field(default_factory=dict, description="By name, as each reports itself.")

    def of(self, workload: str, server: str) -> list[Sample]:
        return [sample for sample in self.samples if (sample.workload, sample.server) == (workload, server)]

    def cold_starts(self, workload: str, server: str) -> list[float]:
        """Seconds of all starts."""
        return [sample.cold_start for sample in self.of(workload, server)] + self.starts.get(f"{workload} {server}", [])

    def median_parts(self, workload: str) -> Parts | None:
        """The medians over the rounds of what the parts take."""
        from benchmarks.figures import figure

        rounds = [sample for sample in self.parts if sample.workload == workload]
        if not rounds:
            return None

        def medians(kind: str) -> dict[str, float]:
            names = dict.fromkeys(name for sample in rounds for name in getattr(sample, kind))
            found = {
                name: figure(getattr(sample, kind)[name] for sample in rounds if name in getattr(sample, kind))
                for name in names
            }
            return {name: value.median for name, value in found.items() if value}

        return Parts(medians("decode"), medians("engine"), medians("http"))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        return cls.model_validate_json(path.read_bytes())
