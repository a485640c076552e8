"""The servers that are compared: how each is started, asked and read, and which settings of it are tried."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from app.settings import Settings
from benchmarks.answers import Read, read_list, read_predictions, read_tensors
from benchmarks.forms import form_type, one_image_form
from benchmarks.places import ENVIRONMENTS, REPOSITORY
from benchmarks.workloads import Workload

_F32_TOLERANCE = 1e-4
# bf16 keeps 8 bits of a number. Through fifty layers of random weights, which nobody trained to bear it, up to 0.04
# of a probability is lost; the product itself refuses a version from 0.05 on.
_BF16_TOLERANCE = 5e-2


@dataclass(frozen=True)
class Setting:
    """One way to set a server up."""

    name: str
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """A server. `settings` are tried in turn before the rounds, and the best one is kept for each workload."""

    name: str
    title: str
    arguments: tuple[str, ...]
    """Of the interpreter; {port} and {workers} stand for the port and the setting's BENCH_WORKERS."""
    settings: tuple[Setting, ...]
    # Name of its environment in `requirements/bench-NAME.txt`; None: the project's own.
    environment: str | None = None
    peer: bool = True
    path: str = "/predict"
    # None: the image's own media type, and its bytes as they are.
    media_type: str | None = None
    encode: Callable[[bytes], bytes] = bytes
    read: Read = read_predictions
    # Where it takes several images in a multipart form; None: it does not.
    many_path: str | None = None
    # What answers 200 once all of its processes are at work; None: nothing does.
    ready_path: str | None = None
    precision: str = "f32"

    @property
    def python(self) -> Path:
        return ENVIRONMENTS / self.environment / "bin/python" if self.environment else Path(sys.executable)

    @property
    def tolerance(self) -> float:
        return _BF16_TOLERANCE if self.precision == "bf16" else _F32_TOLERANCE

    def command(self, port: int, setting: Setting) -> list[str]:
        values = {"port": port, "workers": setting.environment.get("BENCH_WORKERS", "1")}
        return [str(self.python), *(argument.format(**values) for argument in self.arguments)]

    def missing(self) -> str | None:
        """Why it cannot be run here; None if it can."""
        if not self.python.exists():
            return f"it is not installed: `python -m benchmarks.environments {self.environment}`"
        if self.peer:
            return None
        # Names that the settings do not know would be passed over, and another precision timed than was meant.
        for name, value in self.settings[0].environment.items():
            if name.removeprefix("FOVEA_").lower() not in Settings.model_fields:
                if (name, value) == ("FOVEA_PRECISION", "f32"):
                    continue
                return f"this version of Fovea has no setting {name}"
        try:
            Settings.model_validate(
                {name.removeprefix("FOVEA_").lower(): value for name, value in self.settings[0].environment.items()}
            )
        except ValidationError as error:
            return str(error).splitlines()[0]
        return None

    def variables(self, workload: Workload, port: int, setting: Setting) -> dict[str, str]:
        """Its environment: this one without the settings of the product, and its own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("FOVEA_", "BENCH_"))}
        # All find their modules compiled from the second start on, as wherever they are installed.
        kept.pop("PYTHONDONTWRITEBYTECODE", None)
        return {
            **kept,
            "PATH": f"{self.python.parent}:{kept.get('PATH', '')}",
            "PYTHONPATH": str(REPOSITORY),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "BENCH_VERSION": str(workload.version),
            "BENCH_PORT": str(port),
            "MLSERVER_HTTP_PORT": str(port),
            "BENTOML_DO_NOT_TRACK": "True",
            **({} if self.peer else _product(workload, port)),
            **setting.environment,
        }


def _product(workload: Workload, port: int) -> dict[str, str]:
    return {
        "FOVEA_PORT": str(port),
        "FOVEA_MODEL_STORE": str(workload.store),
        "FOVEA_WORKSPACE": str(workload.folder / "workspace"),
        "FOVEA_EXECUTOR": "none",
        "FOVEA_LOG_LEVEL": "warning",
    }


def uvicorn(application: str) -> tuple[str, ...]:
    """Arguments that run an application of `benchmarks.peers`."""
    quiet = ("--no-access-log", "--log-level", "warning")
    return ("-m", "uvicorn", f"benchmarks.peers.{application}", "--port", "{port}", "--workers", "{workers}", *quiet)


def _product_server(workers: str, precision: str) -> Server:
    return Server(
        name=f"fovea-{workers}-{precision}",
        title=f"Fovea, {'one worker' if workers == '1' else f'{workers} workers'}, {precision}",
        arguments=("-m", "app.cli", "serve"),
        settings=(Setting("defaults", {"FOVEA_WORKERS": workers, "FOVEA_PRECISION": precision}),),
        peer=False,
        path="/api/v1/predict",
        many_path="/api/v1/predict",
        ready_path="/health/ready",
        precision=precision,
    )


def _json_tensor(data: bytes) -> bytes:
    """An image in a request of the Open Inference Protocol, which is JSON and so takes bytes as base64."""
    tensor = {
        "name": "image",
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(data).decode()],
    }
    return json.dumps({"inputs": [tensor]}).encode()


def _threads(workers: int, threads: int, **more: str) -> dict[str, str]:
    """So many workers, of which each gives TensorFlow so many threads."""
    return {
        "BENCH_WORKERS": str(workers),
        "TF_NUM_INTRAOP_THREADS": str(threads),
        "TF_NUM_INTEROP_THREADS": "1",
        "OMP_NUM_THREADS": str(threads),
        **more,
    }


def _mlserver(workers: int, threads: int, batch: int) -> dict[str, str]:
    batching = {"MLSERVER_MODEL_MAX_BATCH_SIZE": str(batch), "MLSERVER_MODEL_MAX_BATCH_TIME": "0.001"}
    return {
        **_threads(max(1, workers), threads),
        "MLSERVER_HOST": "127.0.0.1",
        "MLSERVER_PARALLEL_WORKERS": str(workers),
        "MLSERVER_DEBUG": "false",
        "MLSERVER_MODEL_NAME": "classifier",
        "MLSERVER_MODEL_IMPLEMENTATION": "benchmarks.peers.mlserver_model.Classifier",
        **(batching if batch else {}),
    }


SERVERS = {
    server.name: server
    for server in (
        _product_server("1", "f32"),
        _product_server("2", "f32"),
        _product_server("auto", "f32"),
        _product_server("1", "bf16"),
        _product_server("2", "bf16"),
        _product_server("auto", "bf16"),
        Server(
            name="mosec",
            title="mosec + TensorFlow",
            environment="mosec",
            arguments=("-m", "benchmarks.peers.mosec_server"),
            path="/inference",
            settings=(
                Setting("2 workers of one thread that decode too, batches up to 8", _threads(2, 1, BENCH_BATCH="8")),
                Setting(
                    "1 worker for decoding, 1 of two threads for batches up to 16",
                    _threads(1, 2, BENCH_DECODERS="1", BENCH_BATCH="16"),
                ),
                Setting(
                    "2 workers for decoding, 2 of one thread for batches up to 16",
                    _threads(2, 1, BENCH_DECODERS="2", BENCH_BATCH="16"),
                ),
            ),
        ),
        Server(
            name="litserve",
            title="LitServe + TensorFlow",
            environment="litserve",
            arguments=("-m", "benchmarks.peers.litserve_server"),
            media_type="application/octet-stream",
            settings=(
                Setting("2 workers of one thread, no batches", _threads(2, 1)),
                Setting(
                    "2 workers of one thread, batches up to 8 within 1 ms",
                    _threads(2, 1, BENCH_BATCH="8", BENCH_WAIT="0.001"),
                ),
                Setting(
                    "2 workers of one thread, batches up to 8 within 1 ms, fast queue",
                    _threads(2, 1, BENCH_BATCH="8", BENCH_WAIT="0.001", BENCH_FAST_QUEUE="1"),
                ),
            ),
        ),
        Server(
            name="bentoml",
            title="BentoML + TensorFlow",
            environment="bentoml",
            arguments=(
                *("-m", "bentoml", "serve", "benchmarks.peers.bentoml_service:Classifier"),
                *("--port", "{port}", "--host", "127.0.0.1"),
            ),
            media_type=form_type(),
            encode=one_image_form,
            read=read_list,
            settings=(
                Setting("2 workers of one thread, batches up to 8", _threads(2, 1, BENCH_BATCH="8")),
                Setting("1 worker of two threads, batches up to 16", _threads(1, 2, BENCH_BATCH="16")),
                Setting("2 workers of one thread, no batches", _threads(2, 1)),
            ),
        ),
        Server(
            name="mlserver",
            title="MLServer + TensorFlow",
            environment="mlserver",
            arguments=("-m", "mlserver.cli.main", "start", "benchmarks/peers"),
            path="/v2/models/classifier/infer",
            media_type="application/json",
            encode=_json_tensor,
            read=read_tensors,
            settings=(
                Setting("in process, two threads, batches up to 8 within 1 ms", _mlserver(0, 2, 8)),
                Setting("2 workers of one thread, batches up to 8 within 1 ms", _mlserver(2, 1, 8)),
                Setting("2 workers of one thread, no batches", _mlserver(2, 1, 0)),
            ),
        ),
        Server(
            name="tutorial-tensorflow",
            title="tutorial: FastAPI + TensorFlow",
            arguments=uvicorn("tutorial_tensorflow:app"),
            settings=(
                Setting("2 workers, TensorFlow's own threads", {"BENCH_WORKERS": "2"}),
                Setting("2 workers of one thread", _threads(2, 1)),
            ),
            many_path="/predict-many",
        ),
        Server(
            name="tutorial-openvino",
            title="tutorial: FastAPI + OpenVINO",
            arguments=uvicorn("tutorial_openvino:app"),
            settings=(
                Setting("2 workers, OpenVINO's own threads", {"BENCH_WORKERS": "2"}),
                Setting("2 workers of one thread", {"BENCH_WORKERS": "2", "BENCH_THREADS": "1"}),
            ),
            many_path="/predict-many",
        ),
    )
}
