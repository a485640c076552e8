"""Platforms that host models, Amazon SageMaker and Vertex AI: what they say by variables and folders of their own.

Both start a container that they alone can reach, with the model laid somewhere, and decide themselves who may ask
for predictions. Nothing here runs at import; `fovea serve` asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.errors import ConfigurationError
from app.settings import Settings

SAGEMAKER, VERTEX = "Amazon SageMaker", "Vertex AI"

_PORT = 8080
_BASE = Path("/opt/ml")
_ALL_ADDRESSES = "0.0.0.0"  # noqa: S104 - the platform's own network, see `settle`
# SageMaker kills 30 seconds after SIGTERM; the kernel ends us some seconds after the grace, if all else fails.
_GRACE = 20.0
# Both give up a request after 60 seconds; who asks shall hear what became of it.
_TIMEOUT = 55.0


@dataclass(frozen=True)
class Platform:
    """What started this process, and what it says."""

    name: str
    port: int
    """Where it expects the service."""
    model: Path | str | None
    """Folder, or address of a bucket's, in which the model lies; None if it names none."""
    multi_model: Path | None = None
    """Folder below which it lays models that it then has loaded."""
    declared: bool = True
    """Whether a variable says so, and not only that the model lies where it would lay it."""


def detect(environment: Mapping[str, str]) -> Platform | None:
    """The platform that started a server with these variables; None if there is none.

    Vertex AI always names a port. SageMaker names one to containers that say they take it, and lays the model where
    it always does. `SAGEMAKER_BASE_DIR` is what its own toolkits call that place's parent.

    Raises:
        ConfigurationError: a port that is none.
    """
    if environment.get("AIP_HTTP_PORT") or environment.get("AIP_MODE") == "PREDICTION":
        return Platform(VERTEX, _port(environment, "AIP_HTTP_PORT"), environment.get("AIP_STORAGE_URI") or None)
    base = Path(environment.get("SAGEMAKER_BASE_DIR") or _BASE)
    if environment.get("SAGEMAKER_MULTI_MODEL", "").lower() == "true":
        return Platform(SAGEMAKER, _port(environment, "SAGEMAKER_BIND_TO_PORT"), None, base / "models")
    lies = (base / "model").is_dir()
    declared = any(environment.get(name) for name in ("SAGEMAKER_BIND_TO_PORT", "SAGEMAKER_BASE_DIR"))
    if lies or environment.get("SAGEMAKER_BIND_TO_PORT"):
        model = base / "model" if lies else None
        return Platform(SAGEMAKER, _port(environment, "SAGEMAKER_BIND_TO_PORT"), model, declared=declared)
    return None


def settle(settings: Settings, platform: Platform) -> Settings:
    """The settings as they have to be there; what was set explicitly stays.

    Whoever reaches the port is the platform, which has checked its caller and sends no key of ours: so it is let in
    without one. Since it may pass on more than its own contract, callers may only have images classified; on a
    multi-model endpoint they may also do what the platform does by the same way, which is to load models.

    A folder alone may lie anywhere, in notebooks and training jobs too: for it no address is opened that was not set.
    The image sets it.
    """
    wanted: dict[str, Any] = {
        "host": _ALL_ADDRESSES if platform.declared else None,
        "port": platform.port,
        "executor": "none",
        "shutdown_grace": _GRACE,
        "request_timeout": _TIMEOUT,
        "multi_model": platform.multi_model,
    }
    if settings.api_keys is None:
        wanted |= {"allow_anonymous": True, "anonymous": "models" if platform.multi_model else "predict"}
    update = {
        name: value for name, value in wanted.items() if value is not None and name not in settings.model_fields_set
    }
    return settings.model_copy(update=update)


def _port(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or str(_PORT)
    if not (text.isascii() and text.isdecimal() and 0 <= int(text[:6]) <= 65535):
        raise ConfigurationError(f"{name} is {text[:40]!r}; allowed is a port, from 1 to 65535.")
    return int(text)
