"""What the service says when it is there: all that a newcomer needs to go on."""

from __future__ import annotations

import json
import shlex
import socket
from pathlib import Path

import app as package
from app.api.services import Services
from app.errors import FoveaError
from app.serving.status import ModelStatus
from app.settings import Settings
from app.store.manifest import GOLDEN, Manifest
from app.store.registry import Registry

_WILDCARDS = ("0.0.0.0", "::", "")  # noqa: S104 - compared with, not listened on
_KEY = " -H 'Authorization: Bearer YOUR_KEY'"


def listening(listener: socket.socket) -> str:
    """The address that a socket really listens on."""
    host, port = listener.getsockname()[:2]
    return f"{_url(host, port)} (all addresses of this machine)" if host in _WILDCARDS else _url(host, port)


def base_url(settings: Settings, listener: socket.socket) -> str:
    """Address of the service, for a person at this machine."""
    host = "127.0.0.1" if settings.host in _WILDCARDS else settings.host
    return _url(host, listener.getsockname()[1])


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def banner(services: Services, address: str, url: str) -> str:
    """Address, models and versions, folders, keys, docs page, and a command that works.

    Args:
        services: the store is read, so this may block.
        address: what it listens on, from `listening`.
        url: what reaches it from this machine, from `base_url`.
    """
    settings = services.settings
    status = services.classifier.status()
    answering = [model for model in status.models if model.serving is not None]
    lines = [
        f"Fovea {package.__version__} listens on {address}",
        *([f"  gRPC   {_grpc(settings)}"] if settings.grpc_port is not None else []),
        *(f"  Model  {_describe(services.registry, model)}" for model in status.models),
        f"  Store  {settings.model_store.absolute()}",
        f"  Work   {settings.workspace.absolute()} (datasets and training jobs)",
        f"  Keys   {_keys(services)}",
        f"  Docs   {url}/docs",
    ]
    key = _KEY if services.keys is not None else ""
    if answering:
        lines.append(f"  Try    {_predict_command(services, answering, url, key)}")
    elif status.models:
        lines.append(f"  Nothing answers yet: {status.reason}")
    else:
        body = json.dumps({"dataset": "digits", "promotion": "always"})
        lines.append("  There is no model yet. Train one on the built-in digits, which takes about a minute:")
        lines.append(
            f"         curl{key} {url}/api/v1/training-jobs -H 'Content-Type: application/json' -d {shlex.quote(body)}"
        )
    return "\n".join(lines)


def _grpc(settings: Settings) -> str:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"{host}:{settings.grpc_port} (Open Inference Protocol, TensorFlow Serving)"


def _keys(services: Services) -> str:
    if services.keys is not None:
        return f"needed; they are in {services.settings.api_keys} (FOVEA_API_KEYS)"
    return f"none needed: whoever reaches the address may {services.settings.anonymous_may}"


def _describe(registry: Registry, model: ModelStatus) -> str:
    if model.serving is None:
        return f"{model.model}: {model.state}. {model.reason or ''}".rstrip()
    text = f"{model.model}, version {model.serving}"
    manifest = _manifest(registry, model)
    accuracy = manifest.metrics.get("accuracy") if manifest else None
    if manifest is not None and accuracy is not None:
        images = manifest.data.counts.get("test") if manifest.data else None
        text += f" ({accuracy:.1%} of {f'{images:,}' if images else 'its'} test images right)"
    if model.state != "ready":
        text += f"; {model.state}: {model.reason}"
    return text


def _predict_command(services: Services, answering: list[ModelStatus], url: str, key: str) -> str:
    default = services.settings.default_model
    chosen = next((model for model in answering if model.model == default), answering[0])
    promoted = [model for model in services.classifier.status().models if model.production is not None]
    unnamed = len(promoted) == 1 if default is None else chosen.model == default
    query = "" if unnamed else f"?model={chosen.model}"
    image = "photo.jpg"
    manifest = _manifest(services.registry, chosen)
    if manifest is not None and chosen.serving is not None:
        folder = services.registry.folder(chosen.model, chosen.serving)
        image = _short(folder / GOLDEN / manifest.golden.images[0])
    return f"curl{key} --data-binary @{shlex.quote(image)} {shlex.quote(f'{url}/api/v1/predict{query}')}"


def _manifest(registry: Registry, model: ModelStatus) -> Manifest | None:
    try:
        return registry.manifest(model.model, model.serving) if model.serving is not None else None
    except FoveaError:
        return None  # removed since it was loaded; it answers all the same


def _short(path: Path) -> str:
    """The path as a person would type it here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path.resolve())
