"""All settings of the service: environment variables that begin with FOVEA_."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AliasChoices, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigurationError

_ROUTE = re.compile(r"/|(/[A-Za-z0-9._:-]+)+/?")
# Our own routes, whose requests have other forms.
_OWN = ("/api/", "/docs", "/health/", "/metrics", "/openapi.json")

Anonymous = Literal["all", "models", "predict"]


class Settings(BaseSettings):
    """Read from the environment when constructed, never at import. `docs/settings.md` has the same table."""

    model_config = SettingsConfigDict(
        env_prefix="FOVEA_", frozen=True, extra="ignore", env_ignore_empty=True, validate_by_name=True
    )

    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs API keys.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    grpc_port: int | None = Field(
        None, ge=0, le=65535, description="Port for gRPC, on the same address; 0 picks a free one. Unset: no gRPC."
    )
    workers: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Serving processes that share the port. `auto`: one a core for small models, one for large ones."
    )

    model_store: Path = Field(Path("model_store"), description="Root folder of the model versions.")
    workspace: Path = Field(Path("workspace"), description="Root folder of datasets and training jobs.")
    default_model: str | None = Field(
        None, description="Model that answers when a request names none. Unset: the only one in production."
    )
    cache: Path | None = Field(
        None, description="Folder of what was measured and compiled when models were loaded. Unset: in the workspace."
    )
    runtime: Literal["auto", "openvino", "litert", "tensorflow", "fake"] = Field(
        "auto",
        description="Inference engine. `auto`: the faster of OpenVINO and LiteRT; TensorFlow for graphs that neither "
        "can read.",
    )
    precision: Literal["auto", "f32", "bf16", "int8"] = Field(
        "auto",
        description="What the engine computes in. `auto`: f32, or bf16 or int8 where that is faster and was measured "
        "to lose nothing that matters.",
    )
    lanes: int = Field(
        0, ge=0, le=256, description="Micro-batches that a process decodes and classifies at a time; 0: one a core."
    )
    inference_threads: int = Field(
        0, ge=0, le=256, description="Threads of the inference engine, which the lanes share; 0: one a core."
    )
    poll_interval: float = Field(
        0.5, gt=0, le=60, description="Seconds between looks at the promotion log for changes by other processes."
    )

    max_body_bytes: int = Field(
        32 * 2**20, ge=1024, description="Largest body of a predict request, or of any other but an upload, in bytes."
    )
    max_files: int = Field(64, ge=1, le=4096, description="Most images in one predict request.")
    max_pixels: int = Field(25_000_000, ge=1, description="Most pixels an image may have, read before decoding.")
    max_batch: int = Field(32, ge=1, le=1024, description="Most images in one call of the engine.")
    max_queue: int = Field(512, ge=1, description="Most images waiting or running at a time; beyond it: 429.")
    request_timeout: float = Field(
        60,
        gt=0,
        le=3600,
        description="Seconds in which a predict request is answered or given up; `Fovea-Timeout-Ms` asks for less.",
    )
    body_timeout: float = Field(
        30, gt=0, description="Seconds a client may take to send a request's head, and then its body."
    )
    shutdown_grace: float = Field(25, ge=0, description="Seconds that requests in flight get after SIGTERM.")

    max_upload_bytes: int = Field(2 * 2**30, ge=1024, description="Largest dataset archive, in bytes.")
    upload_timeout: float = Field(3600, gt=0, description="Seconds a client may take to send a dataset.")
    max_dataset_bytes: int = Field(8 * 2**30, ge=1024, description="Most bytes of a dataset when unpacked.")
    max_dataset_files: int = Field(1_000_000, ge=1, description="Most files in a dataset.")
    max_decoded_bytes: int = Field(
        32 * 2**30,
        ge=0,
        description="Most bytes of decoded images that training keeps in the workspace for later jobs.",
    )

    executor: Literal["local", "ray", "none"] = Field(
        "local",
        description="What runs training jobs: this machine, or the Ray cluster at `FOVEA_RAY_ADDRESS`. `none`: only "
        "queue them, for a `fovea worker` elsewhere.",
    )
    ray_address: str | None = Field(
        None,
        # Ray's own programs are told by the second.
        validation_alias=AliasChoices("FOVEA_RAY_ADDRESS", "RAY_ADDRESS"),
        description="Address of the Ray cluster's dashboard, like `http://head:8265`. Unset: that of `RAY_ADDRESS`.",
    )
    training_threads: int = Field(
        0, ge=0, le=256, description="Threads of the training process; 0: one a core (it runs at the lowest priority)."
    )

    api_keys: Path | None = Field(
        None, description="File of API keys as SHA-256 digests with scopes; see `docs/security.md`."
    )
    allow_anonymous: bool = Field(
        False, description="Listen on a non-loopback address without keys: anyone who reaches it may do anything."
    )
    anonymous: Anonymous = Field(
        "all",
        description="What callers may do where there are no keys: everything, only have images classified (`predict`), "
        "or that and load and unload what lies below `FOVEA_MULTI_MODEL` (`models`).",
    )

    predict_route: str | None = Field(
        None,
        validation_alias=AliasChoices("FOVEA_PREDICT_ROUTE", "AIP_PREDICT_ROUTE"),
        description="A further path at which requests in the form of Vertex AI are answered. Unset: that of "
        "`AIP_PREDICT_ROUTE`.",
    )
    health_route: str | None = Field(
        None,
        validation_alias=AliasChoices("FOVEA_HEALTH_ROUTE", "AIP_HEALTH_ROUTE"),
        description="A further path of `/health/ready`. Unset: that of `AIP_HEALTH_ROUTE`.",
    )
    multi_model: Path | None = Field(
        None,
        description="Folder below which SageMaker lays the models of a multi-model endpoint, which `POST /models` "
        "loads. Unset: nothing is loaded by HTTP.",
    )

    access_log: Literal["all", "failures", "none"] = Field(
        "failures", description="Requests that are logged, a line each. `failures`: answered with a status from 400 on."
    )
    log_format: Literal["json", "text"] = Field("text", description="Format of the log on stderr.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    tracing: Literal["off", "otlp"] = Field(
        "off", description="Send OpenTelemetry traces of requests, by OTLP over HTTP; needs `fovea[otel]`."
    )

    @property
    def cache_folder(self) -> Path:
        """`cache`, or its default."""
        return self.cache if self.cache is not None else self.workspace / "cache"

    @property
    def anonymous_may(self) -> str:
        """What `anonymous` allows, for people."""
        if self.anonymous == "all":
            return "do everything"
        more = "load and unload what SageMaker laid down, " if self.anonymous == "models" else ""
        return f"have images classified, {more}and nothing else"

    @property
    def loopback(self) -> bool:
        """Whether `host` can be reached from this machine only."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def check(self) -> None:
        """Raise ConfigurationError for combinations that must not start."""
        if self.precision in ("bf16", "int8") and self.runtime not in ("auto", "openvino"):
            raise ConfigurationError(
                f"FOVEA_PRECISION={self.precision} needs OpenVINO, but FOVEA_RUNTIME is {self.runtime}: set it to auto "
                "or openvino."
            )
        self.check_executor()
        self._check_routes()
        if self.multi_model is not None and self.workers != 1:
            raise ConfigurationError(
                f"A multi-model endpoint is one process, which knows what it was told to load, but FOVEA_WORKERS is "
                f"{self.workers}: set it to 1, or unset FOVEA_MULTI_MODEL."
            )
        if self.grpc_port == self.port and self.port != 0:
            raise ConfigurationError(
                f"FOVEA_GRPC_PORT and FOVEA_PORT are both {self.port}: gRPC needs a port of its own, like "
                f"{self.port + 1 if self.port < 65535 else 8001}."
            )
        if not self.loopback and self.api_keys is None and not self.allow_anonymous:
            raise ConfigurationError(
                f"Refusing to listen on {self.host} without API keys: anyone on the network could use, train and "
                "replace models. Set FOVEA_API_KEYS to a file of keys (make one with `fovea keys new`), or "
                "FOVEA_HOST=127.0.0.1, or, behind something that authenticates, FOVEA_ALLOW_ANONYMOUS=true."
            )

    def _check_routes(self) -> None:
        for name, route in (("PREDICT", self.predict_route), ("HEALTH", self.health_route)):
            if route is not None and _ROUTE.fullmatch(route) is None:
                raise ConfigurationError(
                    f"AIP_{name}_ROUTE (or FOVEA_{name}_ROUTE) is {route[:80]!r}; allowed is a path of letters, digits "
                    "and any of / . _ : - , like /v1/models/cifar10:predict."
                )
        if self.predict_route is not None and self.predict_route.startswith(_OWN):
            raise ConfigurationError(
                f"AIP_PREDICT_ROUTE (or FOVEA_PREDICT_ROUTE) is {self.predict_route!r}, a route of the service's own, "
                "whose requests have another form. Choose another path, like /vertex/predict."
            )

    def check_executor(self) -> None:
        """Raise ConfigurationError where jobs are to run on Ray, and it is not said where that is."""
        if self.executor != "ray":
            return
        allowed = "the address of the cluster's dashboard, like http://head:8265"
        if self.ray_address is None:
            raise ConfigurationError(f"FOVEA_EXECUTOR=ray needs RAY_ADDRESS: {allowed}.")
        if "@" in self.ray_address:
            # Not shown: that would be in a log.
            raise ConfigurationError(
                "RAY_ADDRESS has a user name or a password in it, which everybody could read who sees Ray's dashboard: "
                "leave out what stands before the @, and set RAY_AUTH_TOKEN where Ray asks for one."
            )
        try:
            address = urlsplit(self.ray_address)
            right = address.scheme in ("http", "https") and bool(address.hostname)
        except ValueError:
            right = False
        if not right:
            raise ConfigurationError(
                f"RAY_ADDRESS is {self.ray_address!r}; allowed is {allowed}. Jobs are sent to it by HTTP, and not to "
                "the port that Ray's own programs connect to."
            )
