"""mosec: a front in Rust, and behind it processes for decoding and for inference in batches."""

# Installed in an environment of its own, where mypy does not look.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

from __future__ import annotations

import json
import os
import sys
from typing import Any

from mosec import Server, Worker

from benchmarks.peers.classification import Array, Images, Model

WORKERS = int(os.environ.get("BENCH_WORKERS", "1"))
DECODERS = int(os.environ.get("BENCH_DECODERS", "0"))
BATCH = int(os.environ.get("BENCH_BATCH", "8"))
WAIT_MILLISECONDS = 1


class Decoding(Worker):
    """The first stage, where there are two: bytes to arrays."""

    def __init__(self) -> None:
        super().__init__()
        self.images = Images()

    def deserialize(self, data: memoryview) -> bytes:
        return bytes(data)

    def forward(self, data: bytes) -> Array:
        return self.images.decode(data)


class Inference(Worker):
    """Arrays, or bytes where there is no other stage, to answers."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()

    def deserialize(self, data: memoryview) -> bytes:
        return bytes(data)

    def serialize(self, data: Any) -> bytes:
        return json.dumps({"predictions": [data]}, separators=(",", ":")).encode()

    def forward(self, data: list[Any]) -> list[dict[str, Any]]:
        arrays = [self.model.decode(one) if isinstance(one, bytes) else one for one in data]
        return [self.model.answer(row) for row in self.model.probabilities(arrays)]


if __name__ == "__main__":
    sys.argv += ["--address", "127.0.0.1", "--port", os.environ["BENCH_PORT"], "--timeout", "30000"]
    sys.argv += ["--log-level", "warning"]
    server = Server()
    if DECODERS:
        server.append_worker(Decoding, num=DECODERS)
    server.append_worker(Inference, num=WORKERS, max_batch_size=BATCH, max_wait_time=WAIT_MILLISECONDS)
    server.run()
