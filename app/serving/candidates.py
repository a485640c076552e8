"""Which engines may run a version: what is installed, what the version carries and what the settings ask for."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

from app.errors import VersionRefused
from app.serving.runtimes.base import Runtime, RuntimeLoader
from app.serving.runtimes.compiled_models import CompiledModels
from app.serving.runtimes.loading import load_litert, load_openvino, load_tensorflow, openvino_is_compiled
from app.settings import Settings
from app.store.manifest import INT8, LITERT, LowerPrecision, Manifest, Precision

_LOWER: tuple[LowerPrecision, ...] = ("bf16", "int8")

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """An engine that may run a version."""

    name: str
    """As `Runtime.name` has it: "openvino-f32"."""
    load: RuntimeLoader
    wide: RuntimeLoader | None = None
    """The same with a second model on all threads, for lone images; None: the engine has no such thing."""
    precision: Precision = "f32"
    compiled: Compiled | None = None
    """Whether what it compiles is on disk already; None: it compiles nothing to speak of."""
    keeps: Callable[[], bool] = lambda: True
    """Whether what it compiles can be kept on disk."""


class Compiled(Protocol):
    """Says whether a version need not be compiled; arguments as of a `RuntimeLoader`. `wide`: also for all threads."""

    def __call__(self, folder: Path, manifest: Manifest, /, *, lanes: int, threads: int, wide: bool) -> bool: ...


class Candidates(Protocol):
    """Says which engines may run a version: groups, of which a later one is only for what none of the earlier can
    read.
    """

    def __call__(self, manifest: Manifest, /) -> Sequence[Sequence[Candidate]]: ...


def candidates(settings: Settings) -> Candidates:
    """The candidates that the settings allow, for any of them but the fake runtime."""
    compiled = CompiledModels(settings.cache_folder / "openvino")

    def openvino(precision: Precision) -> Candidate:
        load = partial(load_openvino, precision=precision, compiled=compiled)
        known = partial(openvino_is_compiled, precision=precision, compiled=compiled)
        return Candidate(f"openvino-{precision}", load, partial(load, wide=True), precision, known, compiled.usable)

    litert = Candidate("litert-f32", load_litert, partial(load_litert, wide=True))
    tensorflow = Candidate("tensorflow-f32", load_tensorflow)

    def groups(manifest: Manifest) -> Sequence[Sequence[Candidate]]:
        match settings.runtime:
            case "litert":
                return [[litert]]
            case "tensorflow":
                return [[tensorflow]]
        asked = settings.precision
        if asked in ("bf16", "int8") and _may_be_asked_for(asked, manifest):
            found = [[openvino(asked)], [openvino("f32")]]
        else:
            lower = [openvino(each) for each in _LOWER if asked == "auto" and _is_harmless(each, manifest)]
            found = [[openvino("f32"), *lower]]
            if settings.runtime == "auto" and LITERT in manifest.files and find_spec("ai_edge_litert") is not None:
                found[0].append(litert)
        # TensorFlow takes seconds to load and some 400 MB, and was never the fastest: it is not timed with the others.
        return [*found, [Candidate("tensorflow-f32", _load_fallback)]] if settings.runtime == "auto" else found

    return groups


def _is_harmless(precision: LowerPrecision, manifest: Manifest) -> bool:
    """Whether a version may be served in a precision unasked."""
    return manifest.allows(precision) and (precision != "int8" or INT8 in manifest.files)


def _may_be_asked_for(precision: LowerPrecision, manifest: Manifest) -> bool:
    """Whether a version can be served in a precision, and was not measured to lose by it; the log says why not."""
    check = manifest.precisions.get(precision)
    if check is not None and not manifest.allows(precision):
        _log.warning(
            "%s is served in f32, although FOVEA_PRECISION is %s: on its %d test images the accuracy in %s was "
            "measured to be %.4f, with %.2f %% of them in the same class as in f32.",
            *(manifest.model, precision, check.images, precision, check.accuracy, 100 * check.agreement),
        )
        return False
    if precision == "int8" and INT8 not in manifest.files:
        _log.warning(
            "%s is served in f32, although FOVEA_PRECISION is int8: it has no %s, which training makes where it does "
            "no harm.",
            *(manifest.model, INT8),
        )
        return False
    return True


def circumstances(settings: Settings) -> dict[str, str | int]:
    """What a choice between the candidates depends on, besides the version and the processor."""
    packages = ("openvino", "ai-edge-litert", "tensorflow", "tensorflow-cpu")
    return {
        "runtime": settings.runtime,
        "precision": settings.precision,
        **{package: _installed(package) for package in packages},
    }


def _load_fallback(folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> Runtime:
    if find_spec("tensorflow") is None:
        raise VersionRefused("TensorFlow, which might, is not installed: install `fovea[train]`.")
    _log.warning("%s: falling back to TensorFlow, which is slower.", folder)
    return load_tensorflow(folder, manifest, lanes=lanes, threads=threads)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
