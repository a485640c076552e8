"""Chooses the engine. Each is imported only when it is used."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from app.errors import VersionRefused
from app.serving.runtimes.base import Runtime, RuntimeLoader
from app.store.manifest import Manifest

Choice = Literal["auto", "openvino", "tensorflow", "fake"]

_log = logging.getLogger(__name__)


def runtime_loader(choice: Choice) -> RuntimeLoader:
    """The loader for a choice of `FOVEA_RUNTIME`."""
    return {"auto": load_auto, "openvino": load_openvino, "tensorflow": load_tensorflow, "fake": load_fake}[choice]


def load_auto(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    """OpenVINO, or TensorFlow if OpenVINO cannot read the graph and TensorFlow is installed."""
    try:
        return load_openvino(folder, manifest, lanes=lanes, threads=threads)
    except VersionRefused as refusal:
        if find_spec("tensorflow") is None:
            raise VersionRefused(
                f"{refusal} TensorFlow, which might, is not installed: install `fovea[train]`."
            ) from refusal
        _log.warning("%s: falling back to TensorFlow, which is slower. %s", folder, refusal)
    return load_tensorflow(folder, manifest, lanes=lanes, threads=threads)


def load_openvino(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    """OpenVINO, in f32."""
    if find_spec("openvino") is None:
        raise VersionRefused("OpenVINO is not installed: install `fovea[serve]`, or set FOVEA_RUNTIME=tensorflow.")
    from app.serving.runtimes.openvino_runtime import OpenVINORuntime

    return OpenVINORuntime(folder, manifest, lanes=lanes, threads=threads)


def load_tensorflow(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    """TensorFlow."""
    if find_spec("tensorflow") is None:
        raise VersionRefused("TensorFlow is not installed: install `fovea[train]`, or set FOVEA_RUNTIME=openvino.")
    from app.serving.runtimes.tensorflow_runtime import TensorFlowRuntime

    return TensorFlowRuntime(folder, manifest, lanes=lanes, threads=threads)


def load_fake(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    """The fake, which needs no SavedModel."""
    from app.serving.runtimes.fake import FakeRuntime

    return FakeRuntime(folder, manifest, lanes=lanes, threads=threads)
