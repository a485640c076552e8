"""Runs a version's LiteRT export (`model.tflite`) on the processor, with neither TensorFlow nor OpenVINO.

Import this module only to use it: it needs the package `ai-edge-litert`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert.interpreter import Interpreter

from app.errors import InferenceFailed, VersionRefused
from app.preprocessing import Float32Array
from app.serving.runtimes.base import Batch
from app.serving.runtimes.inputs import to_input
from app.serving.runtimes.outputs import no_images, to_probabilities
from app.serving.runtimes.spare import spare_calls
from app.store.manifest import LITERT, Manifest

SIGNATURE = "serving_default"

# Images of a call: LiteRT is as fast with one image as with many, but between two calls it takes and gives back
# Python's lock. Where a call is short that counts, so such models have interpreters for several images too.
_GROUPS = (8, 4, 2, 1)
_SHORT_SECONDS = 1e-3


class LiteRTRuntime:
    """A LiteRT model in f32, with interpreters of its own for each lane: they are not thread-safe."""

    name = "litert-f32"

    def __init__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int, wide: bool = False) -> None:
        """`wide`: also keep an interpreter on all threads, for lone images."""
        self._manifest = manifest
        each = max(1, threads // lanes)
        try:
            first = _Lane(folder, manifest, threads=each)
            if first.seconds() < _SHORT_SECONDS:
                first.grow(_GROUPS)
            calls = lanes + spare_calls((folder / LITERT).stat().st_size)
            others = [_Lane(folder, manifest, threads=each, sizes=first.sizes) for _ in range(calls - 1)]
            self._wide: SimpleQueue[_Lane] | None = None
            if wide and threads > each:
                self._wide = SimpleQueue()
                self._wide.put(_Lane(folder, manifest, threads=threads))
        except VersionRefused:
            raise
        # The interpreter raises whatever a broken or foreign graph runs it into.
        except Exception as error:
            raise VersionRefused(f"LiteRT cannot read the graph: {_reason(error)}.") from error
        self._dtype = first.dtype
        self._lanes: SimpleQueue[_Lane] = SimpleQueue()
        for lane in (first, *others):
            self._lanes.put(lane)
        self._open = True

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        if not self._open:
            raise InferenceFailed("The model has been unloaded.")
        if len(batch) == 0:
            return no_images(self._manifest)
        values = to_input(batch, self._manifest.preprocessing, self._dtype)
        queue = self._wide if alone and len(batch) == 1 and self._wide is not None else self._lanes
        lane = queue.get()
        try:
            output = lane.run(values)
        except Exception as error:
            raise InferenceFailed(f"LiteRT failed: {_reason(error)}.") from error
        finally:
            queue.put(lane)
        return to_probabilities(output, self._manifest)

    def close(self) -> None:
        """The interpreters of calls that still run are freed after them."""
        self._open = False
        self._lanes, self._wide = SimpleQueue(), None


class _Lane:
    """Interpreters for one call at a time, each for a fixed number of images: changing it costs milliseconds."""

    def __init__(self, folder: Path, manifest: Manifest, *, threads: int, sizes: tuple[int, ...] = (1,)) -> None:
        self._path = folder / LITERT
        self._manifest = manifest
        self._threads = threads
        self._interpreters: dict[int, _Fixed] = {}
        self.grow(sizes)

    @property
    def dtype(self) -> npt.DTypeLike:
        return self._interpreters[1].dtype

    @property
    def sizes(self) -> tuple[int, ...]:
        """Images that one call takes, the largest first."""
        return tuple(sorted(self._interpreters, reverse=True))

    def grow(self, sizes: tuple[int, ...]) -> None:
        for size in sizes:
            if size not in self._interpreters:
                self._interpreters[size] = _Fixed(self._path, self._manifest, size, self._threads)

    def seconds(self) -> float:
        """Of a call with one image; the first is the warm-up."""
        _, *times = (self._interpreters[1].time() for _ in range(3))
        return min(times)

    def run(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """[n, height, width, channels], contiguous, to [n, classes]; the answer is the caller's."""
        if len(values) in self._interpreters:
            return self._interpreters[len(values)].run(values)
        return np.concatenate([self._interpreters[len(part)].run(part) for part in self._split(values)])

    def _split(self, values: npt.NDArray[np.generic]) -> Iterator[npt.NDArray[np.generic]]:
        begin = 0
        for size in self.sizes:
            while len(values) - begin >= size:
                yield values[begin : begin + size]
                begin += size


class _Fixed:
    """An interpreter for batches of one size."""

    def __init__(self, path: Path, manifest: Manifest, size: int, threads: int) -> None:
        self._interpreter: Any = Interpreter(model_path=str(path), num_threads=threads)
        inputs = self._interpreter.get_input_details()
        if len(inputs) != 1:
            raise VersionRefused(f"The graph has {len(inputs)} inputs; one, the images, is needed.")
        self._input = inputs[0]["index"]
        self._interpreter.resize_tensor_input(self._input, (size, *manifest.preprocessing.shape))
        self._interpreter.allocate_tensors()
        self._output = _output_index(self._interpreter, manifest)
        self.dtype: npt.DTypeLike = inputs[0]["dtype"]
        self._empty = np.zeros((size, *manifest.preprocessing.shape), self.dtype)

    def run(self, values: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        output: npt.NDArray[np.generic] = self._interpreter.get_tensor(self._output)
        return output

    def time(self) -> float:
        begin = time.perf_counter()
        self.run(self._empty)
        return time.perf_counter() - begin


def _output_index(interpreter: Any, manifest: Manifest) -> int:
    """Find the manifest's output by its name, or take the only one. Only the signature knows the names."""
    outputs = interpreter.get_signature_runner(SIGNATURE).get_output_details()
    name = manifest.output.name.split(":")[0]
    if name not in outputs and len(outputs) > 1:
        raise VersionRefused(f"The graph has no output {name!r}; its outputs are: {', '.join(sorted(outputs))}.")
    details = outputs[name] if name in outputs else next(iter(outputs.values()))
    return int(details["index"])


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:500]
