"""Runs a SavedModel with OpenVINO on the processor, without TensorFlow.

Import this module only to use it: it needs the package `openvino`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from types import ModuleType
from typing import Any

from app.errors import InferenceFailed, VersionRefused
from app.instructions import multiplies_int8
from app.openvino_import import import_openvino
from app.preprocessing import Float32Array
from app.serving.processor import processor
from app.serving.runtimes.base import Batch
from app.serving.runtimes.compiled_models import CompiledModels
from app.serving.runtimes.inputs import to_input
from app.serving.runtimes.outputs import no_images, to_probabilities
from app.serving.runtimes.spare import spare_calls
from app.store.manifest import INT8, Manifest, Precision

# A lane with a compiled model of its own runs it on its own thread; with a stream of a shared one, OpenVINO hands each
# call over to a thread of the stream and back, and leaves cores idle in between. But each copies the weights, so that
# models whose copies would take more bytes than these are shared, and so is any where there are more lanes than these:
# each copy takes memory and time besides its weights'.
MAX_COPIES = 256 * 2**20
MAX_LANES = 8

_log = logging.getLogger(__name__)


class OpenVINORuntime:
    """A SavedModel compiled for this processor, with a dynamic batch: for each lane, or once with a stream a lane."""

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
            layouts = _layouts(folder, precision, lanes, threads, wide=wide)
            narrow, *whole = [opener.open(properties, count) for properties, count in layouts]
        except VersionRefused:
            raise
        # OpenVINO raises RuntimeError for nearly all, and others where Python meets C++.
        except Exception as error:
            raise VersionRefused(f"OpenVINO cannot read the graph: {_reason(error)}.") from error
        inputs, outputs = narrow[0].inputs, narrow[0].outputs
        if len(inputs) != 1:
            raise VersionRefused(f"The graph has {len(inputs)} inputs; one, the images, is needed.")
        self._dtype = inputs[0].get_element_type().to_dtype()
        self._output = _output_index(outputs, manifest)
        self._narrow: _Requests | None = _Requests(narrow, _calls(folder, lanes))
        self._wide = _Requests(whole[0], 1) if whole else None

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
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
        except Exception as error:
            requests.replace(request)
            raise InferenceFailed(f"OpenVINO failed: {_reason(error)}.") from error
        requests.give_back(request)
        return to_probabilities(output, self._manifest)

    def close(self) -> None:
        self._narrow = self._wide = None


class _Requests:
    """Infer requests, each of which serves one call at a time; more calls wait."""

    def __init__(self, compiled: list[Any], calls: int) -> None:
        """`compiled`: a compiled model for each of the `calls` at a time, or one for all."""
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for number in range(calls):
            self._idle.put(compiled[number % len(compiled)].create_infer_request())

    def take(self) -> Any:
        return self._idle.get()

    def give_back(self, request: Any) -> None:
        self._idle.put(request)

    def replace(self, request: Any) -> None:
        """Instead of giving one back that failed, which is not used again."""
        try:
            request = request.get_compiled_model().create_infer_request()
        finally:
            # Even the old one is better than a lane that waits for ever.
            self._idle.put(request)


class _Opener:
    """Compiles a version's graph, or takes it from those that were compiled before."""

    def __init__(
        self, ov: ModuleType, folder: Path, manifest: Manifest, precision: Precision, compiled: CompiledModels | None
    ) -> None:
        self._ov = ov
        self._core = ov.Core()
        self._graph = folder if precision != "int8" else folder / INT8
        self._manifest = manifest
        self._precision = precision
        # Only the files' hashes say which graph it is.
        self._compiled = compiled if manifest.files else None
        self._model: Any | None = None
        if precision == "bf16" and "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise VersionRefused("This processor does not compute in bf16.")
        if precision == "int8":
            if not self._graph.is_file():
                raise VersionRefused(f"It has no {INT8}, which is served in int8: set FOVEA_PRECISION=auto.")
            # Elsewhere sums of products can overflow, and what was measured of the version does not hold.
            if not multiplies_int8():
                raise VersionRefused("This processor does not compute in int8.")

    def open(self, properties: Mapping[str, object], count: int) -> list[Any]:
        """So many models that share nothing, compiled once at most: all others are copies of what that gave."""
        key = _key(self._ov, self._manifest, self._precision, properties)
        if self._compiled is not None and (blob := self._compiled.load(key)) is not None:
            if models := self._copies(blob, properties, count):
                return models
            self._compiled.remove(key)
        models = [self._compile(properties)]
        if self._compiled is not None or count > 1:
            blob = _exported(models[0])
            if self._compiled is not None:
                self._compiled.store(key, blob)
            models += self._copies(blob, properties, count - 1)
        return models + [self._compile(properties) for _ in range(count - len(models))]

    def _copies(self, blob: bytes, properties: Mapping[str, object], count: int) -> list[Any]:
        """Models of what one exported; none if it cannot be read."""
        try:
            return [self._core.import_model(blob, "CPU", dict(properties)) for _ in range(count)]
        # Whatever is wrong with it, compiling goes without.
        except Exception as error:
            _log.warning("a compiled model cannot be used, and is made anew: %s", _reason(error))
            return []

    def _compile(self, properties: Mapping[str, object]) -> Any:
        if self._model is None:
            self._model = self._core.read_model(self._graph)
        return self._core.compile_model(self._model, "CPU", dict(properties))


def is_compiled(
    folder: Path,
    manifest: Manifest,
    compiled: CompiledModels,
    *,
    lanes: int,
    threads: int,
    precision: Precision,
    wide: bool,
) -> bool:
    """Whether all that a runtime with these arguments would compile is there already."""
    ov = import_openvino()
    layouts = _layouts(folder, precision, lanes, threads, wide=wide)
    return bool(manifest.files) and all(
        compiled.has(_key(ov, manifest, precision, properties)) for properties, _ in layouts
    )


def _layouts(
    folder: Path, precision: Precision, lanes: int, threads: int, *, wide: bool
) -> list[tuple[Mapping[str, object], int]]:
    """What is compiled, and how often it is held: what the lanes run, and then, `wide`, the one on all threads."""
    each, calls = max(1, threads // lanes), _calls(folder, lanes)
    sizes = [(1, each, calls)] if _copied(folder, lanes) else [(calls, max(each * calls, threads), 1)]
    if wide and threads // lanes < threads:
        sizes.append((1, threads, 1))
    return [
        (
            {
                # Processors with bf16 would compute in it by themselves. What is not quantized of an int8 graph is in
                # f32: measured faster than in bf16, which converts to and fro.
                "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
                # Each call of a shared model runs on a stream of its own, on the cores that the others leave.
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": number,
                # Pinned, two serving processes end up on the same cores.
                "ENABLE_CPU_PINNING": False,
            },
            count,
        )
        for streams, number, count in sizes
    ]


def _copied(folder: Path, lanes: int) -> bool:
    """Whether each lane has the model for itself."""
    return lanes <= MAX_LANES and (_calls(folder, lanes) - 1) * _weights(folder) <= MAX_COPIES


def _calls(folder: Path, lanes: int) -> int:
    """Calls that run at a time."""
    return lanes + spare_calls(_weights(folder))


def _key(ov: ModuleType, manifest: Manifest, precision: Precision, properties: Mapping[str, object]) -> str:
    # An int8 graph has the properties of the f32 one.
    graph = {"graph": INT8} if precision == "int8" else {}
    return CompiledModels.key(
        manifest, openvino=ov.get_version(), processor=processor().key, properties={**properties, **graph}
    )


def _weights(folder: Path) -> int:
    """Bytes of a version's weights in f32, and of what little else its graph has."""
    return sum(file.stat().st_size for file in (*folder.glob("saved_model.pb"), *folder.glob("variables/*")))


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
