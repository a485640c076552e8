"""Runs a SavedModel with OpenVINO on the processor, without TensorFlow.

Import this module only to use it: it needs the package `openvino`.
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np

from app.errors import InferenceFailed, VersionRefused
from app.preprocessing import Float32Array, UInt8Array, scale
from app.serving.runtimes.outputs import no_images, to_probabilities
from app.store.manifest import Manifest


class OpenVINORuntime:
    """A SavedModel compiled for this processor, in f32, with a dynamic batch."""

    name = "openvino-f32"

    def __init__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> None:
        ov = _import_openvino()
        self._manifest = manifest
        try:
            core = ov.Core()
            model = core.read_model(folder)
            compiled = core.compile_model(
                model,
                "CPU",
                {
                    # Processors with bf16 would compute in it by themselves.
                    "INFERENCE_PRECISION_HINT": "f32",
                    # One micro-batch at a time on all threads; several streams would only share them.
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": "1",
                    "INFERENCE_NUM_THREADS": threads,
                    # Pinned, two serving processes end up on the same cores.
                    "ENABLE_CPU_PINNING": False,
                },
            )
        # OpenVINO raises RuntimeError for nearly all, and others where Python meets C++.
        except Exception as error:
            raise VersionRefused(f"OpenVINO cannot read the graph: {_reason(error)}.") from error
        if len(compiled.inputs) != 1:
            raise VersionRefused(f"The graph has {len(compiled.inputs)} inputs; one, the images, is needed.")
        self._output = _output_index(compiled.outputs, manifest)
        self._compiled: Any | None = compiled
        # An infer request serves one call at a time. deque's append and pop are atomic.
        self._requests: deque[Any] = deque()

    def predict(self, batch: UInt8Array, *, alone: bool = False) -> Float32Array:
        compiled = self._compiled
        if compiled is None:
            raise InferenceFailed("The model has been unloaded.")
        if len(batch) == 0:
            return no_images(self._manifest)
        try:
            request = self._requests.pop()
        except IndexError:
            request = compiled.create_infer_request()
        values = np.ascontiguousarray(scale(batch, self._manifest.preprocessing))
        try:
            # The input is read in place; the outputs are copied out of the request, which the next call reuses.
            outputs = request.infer([values], share_inputs=True, share_outputs=False)
        except Exception as error:  # a request that failed is not used again
            raise InferenceFailed(f"OpenVINO failed: {_reason(error)}.") from error
        probabilities = to_probabilities(outputs[self._output], self._manifest)
        self._requests.append(request)
        return probabilities

    def close(self) -> None:
        self._compiled = None
        self._requests.clear()


def _import_openvino() -> ModuleType:
    """Import OpenVINO without its converter, which reports each import to its maker and writes in the home folder."""
    converter = "openvino.tools.ovc"
    if "openvino" in sys.modules:
        import openvino

        return cast(ModuleType, openvino)
    # The package carries on where the converter cannot be imported, and None says that it cannot.
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules[converter] = None
    try:
        import openvino
    finally:
        del modules[converter]
    return cast(ModuleType, openvino)


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
