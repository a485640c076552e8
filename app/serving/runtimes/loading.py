"""Opens an engine. Each is imported only when it is used."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import VersionRefused
from app.serving.runtimes.base import Runtime
from app.store.manifest import LITERT, Manifest, Precision

if TYPE_CHECKING:
    from app.serving.runtimes.compiled_models import CompiledModels


def load_openvino(
    folder: Path,
    manifest: Manifest,
    *,
    lanes: int,
    threads: int,
    precision: Precision = "f32",
    wide: bool = False,
    compiled: CompiledModels | None = None,
) -> Runtime:
    """OpenVINO, with `wide` also on all threads for lone images; compiled models are kept in `compiled`."""
    if find_spec("openvino") is None:
        raise VersionRefused("OpenVINO is not installed: install `fovea[serve]`, or set FOVEA_RUNTIME=tensorflow.")
    from app.serving.runtimes.openvino_runtime import OpenVINORuntime

    return OpenVINORuntime(
        folder, manifest, lanes=lanes, threads=threads, precision=precision, wide=wide, compiled=compiled
    )


def openvino_is_compiled(
    folder: Path,
    manifest: Manifest,
    *,
    lanes: int,
    threads: int,
    precision: Precision,
    wide: bool,
    compiled: CompiledModels,
) -> bool:
    """Whether `load_openvino` would find in `compiled` all that it needs."""
    if find_spec("openvino") is None:
        return False
    from app.serving.runtimes.openvino_runtime import is_compiled

    return is_compiled(folder, manifest, compiled, lanes=lanes, threads=threads, precision=precision, wide=wide)


def load_litert(folder: Path, manifest: Manifest, *, lanes: int, threads: int, wide: bool = False) -> Runtime:
    """LiteRT, for versions that carry its export; with `wide` also on all threads for lone images."""
    if find_spec("ai_edge_litert") is None:
        raise VersionRefused("LiteRT is not installed: install `fovea[serve]`, or set FOVEA_RUNTIME=openvino.")
    if not (folder / LITERT).is_file():
        raise VersionRefused(f"It has no {LITERT}, which LiteRT reads: set FOVEA_RUNTIME=auto.")
    from app.serving.runtimes.litert_runtime import LiteRTRuntime

    return LiteRTRuntime(folder, manifest, lanes=lanes, threads=threads, wide=wide)


def load_tensorflow(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    """TensorFlow, whose threads the lanes share."""
    if find_spec("tensorflow") is None:
        raise VersionRefused("TensorFlow is not installed: install `fovea[train]`, or set FOVEA_RUNTIME=openvino.")
    from app.serving.runtimes.tensorflow_runtime import TensorFlowRuntime

    return TensorFlowRuntime(folder, manifest, lanes=lanes, threads=threads)


def load_fake(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    """The fake, which needs no SavedModel."""
    from app.serving.runtimes.fake import FakeRuntime

    return FakeRuntime(folder, manifest, lanes=lanes, threads=threads)
