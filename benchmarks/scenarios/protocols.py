"""What each protocol costs beside our own route: one image at a time, in turns, on the same server."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from app.preprocessing import scale, to_array
from app.store.manifest import Manifest
from benchmarks import wrk
from benchmarks.running import Running, free_port, request
from benchmarks.scenarios.by_grpc import ratio
from benchmarks.scenarios.driving import Trial

_ROUNDS = 5
_SECONDS = 3.0
_JSON = "application/json"
_BINARY = "application/octet-stream"
_JSON_LENGTH = "Inference-Header-Content-Length"

Values = npt.NDArray[Any]


@dataclass(frozen=True)
class Form:
    """A way to ask for one image. `{model}` in the path stands for the model's name."""

    path: str
    body: Callable[[bytes, Values], bytes]
    """From an encoded image, and the array [1, height, width, channels] that the graph takes."""
    media_type: str = _JSON
    headers: Callable[[Values], Mapping[str, str]] = field(default=lambda _: {})


def protocols(trial: Trial) -> dict[str, Any]:
    """Milliseconds a request by our own route, and how many times that by the others: medians of rounds in turns."""
    port = free_port()
    with trial.running({"FOVEA_WORKERS": "1", "FOVEA_GRPC_PORT": str(port)}) as subject:
        loads = {name: _Load(subject, name, form) for name, form in _FORMS.items()}
        for load in loads.values():
            load.run(1.0)
        seconds = {name: list[float]() for name in loads}
        for _ in range(_ROUNDS):
            for name, load in loads.items():
                seconds[name].append(load.run(trial.seconds(_SECONDS)))
        own = seconds[_OWN]
        figures: dict[str, Any] = {f"{_OWN}, ms": median(own) * 1000}
        for name, times in seconds.items():
            if name != _OWN:
                ratios = [time / alone for time, alone in zip(times, own, strict=True)]
                figures[f"{name}, x"] = median(ratios)
        by_grpc = ratio(subject, port, rounds=_ROUNDS, seconds=trial.seconds(_SECONDS))
        figures["gRPC, image, each by Python's client, x"] = by_grpc
        return figures


class _Load:
    """One form's requests, ready to be sent again and again."""

    def __init__(self, subject: Running, name: str, form: Form) -> None:
        manifest = subject.workload.manifest()
        self._url = subject.url + form.path.format(model=subject.workload.name)
        self._media_type = form.media_type
        self._headers: Mapping[str, str] = {}
        self._files: list[Path] = []
        folder = subject.workload.folder / "bodies" / "protocols" / "".join(filter(str.isalnum, name))
        folder.mkdir(parents=True, exist_ok=True)
        for number, image in enumerate(subject.workload.images()):
            values = _graph_input(image, manifest)
            body = form.body(image, values)
            self._headers = form.headers(values)
            self._files.append(folder / f"{number:02}")
            self._files[-1].write_bytes(body)
        status, answer = request(
            subject.port,
            "POST",
            form.path.format(model=subject.workload.name),
            form.media_type,
            self._files[0].read_bytes(),
            seconds=30,
            headers=self._headers,
        )
        if status != 200:
            raise RuntimeError(f"{name}: status {status}: {answer[:300]!r}")

    def run(self, seconds: float) -> float:
        """Seconds a request."""
        load = wrk.load(self._url, self._media_type, self._files, connections=1, seconds=seconds, headers=self._headers)
        if load.refused or load.failed:
            raise RuntimeError(f"{self._url}: {load.refused} refused, {load.failed} failed")
        return load.seconds / load.requests


def _graph_input(image: bytes, manifest: Manifest) -> Values:
    batch = to_array(image, manifest.preprocessing)[None]
    return np.asarray(scale(batch, manifest.preprocessing), manifest.input.dtype)


def _b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


def _dump(document: object) -> bytes:
    return json.dumps(document).encode()


def _datatype(values: Values) -> str:
    return "UINT8" if values.dtype == np.uint8 else "FP32"


def _head(values: Values) -> bytes:
    size = {"binary_data_size": values.nbytes}
    tensor = {"name": "image", "shape": list(values.shape), "datatype": _datatype(values), "parameters": size}
    return _dump({"inputs": [tensor], "parameters": {"binary_data_output": True}})


def _bytes_tensor(image: bytes, _: Values) -> bytes:
    data = base64.b64encode(image).decode()
    return _dump({"inputs": [{"name": "image_bytes", "shape": [1], "datatype": "BYTES", "data": [data]}]})


_OWN = "our own route"
_FORMS: dict[str, Form] = {
    _OWN: Form("/api/v1/predict", lambda image, _: image, _BINARY),
    "TensorFlow Serving, b64": Form("/v1/models/{model}:predict", lambda image, _: _dump({"instances": [_b64(image)]})),
    "V2, JSON, base64": Form("/v2/models/{model}/infer", _bytes_tensor),
    "V2, raw image": Form("/v2/models/{model}/infer", lambda image, _: image, _BINARY, lambda _: {_JSON_LENGTH: "0"}),
    "V2, binary tensor": Form(
        "/v2/models/{model}/infer",
        lambda _, values: _head(values) + values.tobytes(),
        _BINARY,
        lambda values: {_JSON_LENGTH: str(len(_head(values)))},
    ),
    "SageMaker, image": Form("/invocations", lambda image, _: image, "application/x-image"),
    "SageMaker, npy": Form("/invocations", lambda _, values: _npy(values), "application/x-npy"),
    "Vertex AI, b64": Form("/vertex/predict", lambda image, _: _dump({"instances": [_b64(image)]})),
}


def _npy(values: Values) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()
