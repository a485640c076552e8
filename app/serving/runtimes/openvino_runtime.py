"""Runs a SavedModel with OpenVINO on the processor, without TensorFlow.

Import this module only to use it: it needs the package `openvino`.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from app.errors import InferenceFailed, VersionRefused
from app.openvino_import import import_openvino
from app.preprocessing import Float32Array, UInt8Array
from app.serving.processor import processor
from app.serving.runtimes.compiled_models import CompiledModels
from app.serving.runtimes.inputs import to_input
from app.serving.runtimes.outputs import no_images, to_probabilities
from app.store.manifest import Manifest, Precision

_log = logging.getLogger(__name__)


class OpenVINORuntime:
    """A SavedModel compiled for this processor, with a dynamic batch and as many streams as lanes."""

    name: str

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        *,
        lanes: int,
        threads: int,
        precision: Precision = "f32",
        wide: bool = False,
        compiled: CompiledModels | None = None,
    ) -> None:
        """`wide`: also compile the model for all threads, for lone images. `compiled`: where compiled ones are kept."""
        self._ov = ov = import_openvino()
        self.name = f"openvino-{precision}"
        self._manifest = manifest
        try:
            opener = _Opener(ov, folder, manifest, precision, compiled)
            narrow, *rest = [opener.open(properties) for properties in _layouts(precision, lanes, threads, wide=wide)]
            whole = rest[0] if rest else None
        except VersionRefused:
            raise
        # OpenVINO raises RuntimeError for nearly all, and others where Python meets C++.
        except Exception as error:
            raise VersionRefused(f"OpenVINO cannot read the graph: {_reason(error)}.") from error
        if len(narrow.inputs) != 1:
            raise VersionRefused(f"The graph has {len(narrow.inputs)} inputs; one, the images, is needed.")
        self._dtype = narrow.inputs[0].get_element_type().to_dtype()
        self._output = _output_index(narrow.outputs, manifest)
        self._narrow: _Requests | None = _Requests(narrow)
        self._wide = _Requests(whole) if whole is not None else None

    def predict(self, batch: UInt8Array, *, alone: bool = False) -> Float32Array:
        requests = self._wide if alone and self._wide is not None else self._narrow
        if requests is None:
            raise InferenceFailed("The model has been unloaded.")
        if len(batch) == 0:
            return no_images(self._manifest)
        values = to_input(batch, self._manifest.preprocessing, self._dtype)
        request = requests.take()
        try:
            # A tensor around the array, and the output by its number: lists and dictionaries of arrays are looked
            # through in Python, at 40 µs a call.
            tensor = self._ov.Tensor(values, shared_memory=True)
            request.infer(tensor, share_inputs=True, share_outputs=True)
            # The next call writes where this answer stands.
            output = request.get_output_tensor(self._output).data.copy()
        except Exception as error:  # a request that failed is not used again
            raise InferenceFailed(f"OpenVINO failed: {_reason(error)}.") from error
        requests.give_back(request)
        return to_probabilities(output, self._manifest)

    def close(self) -> None:
        self._narrow = self._wide = None


class _Requests:
    """A compiled model with its infer requests, each of which serves one call at a time."""

    def __init__(self, compiled: Any) -> None:
        self._compiled = compiled
        # deque's append and pop are atomic.
        self._idle: deque[Any] = deque()

    def take(self) -> Any:
        try:
            return self._idle.pop()
        except IndexError:
            return self._compiled.create_infer_request()

    def give_back(self, request: Any) -> None:
        self._idle.append(request)


class _Opener:
    """Compiles a version's graph, or takes it from those that were compiled before."""

    def __init__(
        self, ov: ModuleType, folder: Path, manifest: Manifest, precision: Precision, compiled: CompiledModels | None
    ) -> None:
        self._ov = ov
        self._core = ov.Core()
        self._folder = folder
        self._manifest = manifest
        # Only the files' hashes say which graph it is.
        self._compiled = compiled if manifest.files else None
        self._model: Any | None = None
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise VersionRefused("This processor does not compute in bf16.")

    def open(self, properties: Mapping[str, object]) -> Any:
        if self._compiled is None:
            return self._compile(properties)
        key = _key(self._ov, self._manifest, properties)
        if (blob := self._compiled.load(key)) is not None:
            try:
                return self._core.import_model(blob, "CPU", dict(properties))
            # Whatever is wrong with it, compiling goes without.
            except Exception as error:
                _log.warning("a compiled model cannot be used, and is made anew: %s", _reason(error))
                self._compiled.remove(key)
        compiled = self._compile(properties)
        self._compiled.store(key, _exported(compiled))
        return compiled

    def _compile(self, properties: Mapping[str, object]) -> Any:
        if self._model is None:
            self._model = self._core.read_model(self._folder)
        return self._core.compile_model(self._model, "CPU", dict(properties))


def is_compiled(
    manifest: Manifest, compiled: CompiledModels, *, lanes: int, threads: int, precision: Precision, wide: bool
) -> bool:
    """Whether all that a runtime with these arguments would compile is there already."""
    ov = import_openvino()
    layouts = _layouts(precision, lanes, threads, wide=wide)
    return bool(manifest.files) and all(compiled.has(_key(ov, manifest, properties)) for properties in layouts)


def _layouts(precision: Precision, lanes: int, threads: int, *, wide: bool) -> list[Mapping[str, object]]:
    """The properties of the models that are compiled: that of the lanes, and, `wide`, the one on all threads."""
    sizes = [(lanes, max(lanes, threads))]
    if wide and threads // lanes < threads:
        sizes.append((1, threads))
    return [
        {
            # Processors with bf16 would compute in it by themselves.
            "INFERENCE_PRECISION_HINT": precision,
            # Each call runs on a stream of its own, on the cores that the others leave.
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": number,
            # Pinned, two serving processes end up on the same cores.
            "ENABLE_CPU_PINNING": False,
        }
        for streams, number in sizes
    ]


def _key(ov: ModuleType, manifest: Manifest, properties: Mapping[str, object]) -> str:
    return CompiledModels.key(
        manifest, openvino=ov.get_version(), processor=processor().key, properties=dict(properties)
    )


def _exported(compiled: Any) -> bytes:
    blob = compiled.export_model()
    return bytes(blob.getvalue() if hasattr(blob, "getvalue") else blob)


def _output_index(outputs: Any, manifest: Manifest) -> int:
    """Find the manifest's output by its name, or take the only one.

    OpenVINO names tensors as the signature does, but some exports keep a graph's own names ("Identity:0").
    """
    if len(outputs) == 1:
        return 0
    names = [{str(name).split(":")[0] for name in output.get_names()} for output in outputs]
    for index, known in enumerate(names):
        if manifest.output.name.split(":")[0] in known:
            return index
    found = ", ".join(sorted(set().union(*names))) or "unnamed ones"
    raise VersionRefused(f"The graph has no output {manifest.output.name!r}; its outputs are: {found}.")


def _reason(error: Exception) -> str:
    """The telling lines of OpenVINO's message, which begins with the places in its own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(("Exception from", "Check '", "To facilitate"))]
    return " ".join(telling or lines).rstrip(".")[:500] or type(error).__name__
