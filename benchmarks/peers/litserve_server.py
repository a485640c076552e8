"""LitServe: processes that decode and answer in batches, behind a FastAPI process."""

# Installed in an environment of its own, where mypy does not look.
# mypy: disable-error-code="import-not-found,misc,untyped-decorator"

from __future__ import annotations

import os
from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers.classification import Array, Model

EncodedImage = Annotated[bytes, Body(media_type="application/octet-stream")]


class Classifier(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self.model = Model()

    # LitServe hands what FastAPI makes of the annotation to the worker.
    def decode_request(self, request: EncodedImage) -> Array:
        return self.model.decode(request)

    def batch(self, inputs: list[Array]) -> list[Array]:
        return inputs

    def predict(self, x: Any) -> Any:
        # Without batching it is one array.
        return list(self.model.probabilities(x)) if isinstance(x, list) else self.model.probabilities([x])[0]

    def unbatch(self, output: list[Array]) -> list[Array]:
        return output

    def encode_response(self, output: Array) -> dict[str, Any]:
        return {"predictions": [self.model.answer(output)]}


# The class reads annotations itself, and must find types there, not their names.
Classifier.decode_request.__annotations__["request"] = EncodedImage
Classifier.encode_response.__annotations__["return"] = dict

if __name__ == "__main__":
    api = Classifier(
        max_batch_size=int(os.environ.get("BENCH_BATCH", "1")),
        batch_timeout=float(os.environ.get("BENCH_WAIT", "0")),
    )
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        workers_per_device=int(os.environ.get("BENCH_WORKERS", "1")),
        fast_queue=os.environ.get("BENCH_FAST_QUEUE") == "1",
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=int(os.environ.get("BENCH_FRONTS", "1")),
        log_level="warning",
        generate_client_file=False,
    )
