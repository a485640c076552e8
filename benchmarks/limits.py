"""The limit of a workload on this machine: what a server could answer if it did nothing but what must be done.

limit = cores / (decode + engine + bare HTTP), each in core-seconds an image. Each part is measured with all cores at
work on it, as they are at the limit: what one core does beside an idle one is more. The client has its share of the
cores in the last part, as it has when a server is timed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from app.cores import available_cores
from benchmarks.places import REPOSITORY
from benchmarks.running import running
from benchmarks.servers import Server, Setting, uvicorn
from benchmarks.workloads import Workload

_CONNECTIONS = 32
_PLAIN = "bare ASGI"
_ROUTED = "FastAPI route"


@dataclass(frozen=True)
class Parts:
    """What was measured of the parts, all in images (for HTTP: requests) a second."""

    decode: Mapping[str, float]
    """`to_array`: in one thread, in a thread a core, and in a process a core."""
    engine: Mapping[str, float]
    """By engine, precision, streams and batch, on all cores."""
    http: Mapping[str, float]
    """Servers that do nothing else, with a worker a core."""

    def best_engine(self, precision: str) -> str:
        """Name of the fastest engine in a precision, "f32" or "bf16"; bf16 falls back to f32 on processors without."""
        named = [name for name in self.engine if f" {precision}," in name] or [
            name for name in self.engine if " f32," in name
        ]
        return max(named, key=lambda name: self.engine[name])

    def seconds(self, precision: str, cores: int, images: int = 1) -> dict[str, float]:
        """Core-seconds an image of each part, for requests of so many images."""
        return {
            "decode": cores / self.decode["a process a core"],
            "engine": cores / self.engine[self.best_engine(precision)],
            "HTTP": cores / self.http[_PLAIN] / images,
        }

    def limit(self, precision: str, cores: int, images: int = 1) -> float:
        """Images a second."""
        return cores / sum(self.seconds(precision, cores, images).values())

    def floor(self, precision: str) -> float:
        """Seconds that one image alone takes in decoding and in an engine with all cores to itself."""
        # Several streams answer more images, but none of them sooner.
        alone = [
            rate
            for name, rate in self.engine.items()
            if f" {precision}," in name and name.endswith("batch 1") and "streams" not in name and "lanes" not in name
        ]
        if not alone and precision != "f32":
            return self.floor("f32")
        return 1 / self.decode["one thread"] + 1 / max(alone)


def measure(workload: Workload, seconds: float) -> Parts:
    """Measure all parts, one after the other."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.engines", workload.name, str(seconds / 4)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"benchmarks.engines failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    _write_answer(workload)
    http = {}
    for server in _bare():
        with running(server, workload, server.settings[0]) as bare:
            bare.load(_CONNECTIONS, 1)
            http[server.title] = bare.load(_CONNECTIONS, seconds).rate
    return Parts(found["decode"], found["engine"], http)


def _bare() -> tuple[Server, ...]:
    """Servers that read and answer and do nothing between, by uvicorn's fastest parser and event loop."""
    fastest = ("--http", "httptools", "--loop", "uvloop")
    return tuple(
        Server(
            f"bare-{name}",
            title,
            (*uvicorn(f"bare:{name}"), *fastest),
            (Setting("a worker a core", {"BENCH_WORKERS": str(available_cores())}),),
        )
        for name, title in (("app", _PLAIN), ("routed", _ROUTED))
    )


def _write_answer(workload: Workload) -> None:
    """A document as the product would answer with, for the bare servers to send."""
    row = workload.expected()[0]
    labels = workload.manifest().labels
    top = [
        {"label": labels[index], "class_index": int(index), "probability": float(row[index])}
        for index in row.argsort()[::-1][:5]
    ]
    prediction = {"name": "image", "label": top[0]["label"], "probability": top[0]["probability"], "top": top}
    answer = {"model": workload.name, "version": 1, "id": "0" * 16, "predictions": [prediction]}
    (workload.folder / "answer.json").write_text(json.dumps(answer, separators=(",", ":")))
