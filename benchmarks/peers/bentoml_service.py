"""BentoML: a service with adaptive batching; the images are files of a form, which it opens by itself."""

# Installed in an environment of its own, where mypy does not look.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

import os
from typing import Any

import bentoml
from PIL.Image import Image

from benchmarks.peers.classification import Model

BATCH = int(os.environ.get("BENCH_BATCH", "1"))
BATCHING: dict[str, Any] = {"batchable": True, "max_batch_size": BATCH, "max_latency_ms": 1000} if BATCH > 1 else {}


@bentoml.service(
    workers=int(os.environ.get("BENCH_WORKERS", "1")),
    threads=int(os.environ.get("BENCH_POOL", "1")),
    traffic={"timeout": 60, "max_concurrency": 1000},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Classifier:
    def __init__(self) -> None:
        self.model = Model()

    @bentoml.api(route="/predict", **BATCHING)
    def classify(self, images: list[Image]) -> list[dict[str, Any]]:
        arrays = [self.model.array(image) for image in images]
        return [self.model.answer(row) for row in self.model.probabilities(arrays)]
