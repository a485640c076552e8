"""A network in 8-bit integers: quantized after training, by what its layers give for some training images."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import rich

from app.openvino_import import import_openvino
from app.preprocessing import UInt8Array
from app.store.manifest import INT8
from app.training.splits import Indices

# Layers with weights, by OpenVINO's names.
_LAYERS = frozenset({"Convolution", "GroupConvolution", "MatMul"})
_QUANTIZED = "FakeQuantize"


@dataclass(frozen=True)
class Int8Network:
    """OpenVINO's two files of a graph."""

    graph: bytes
    weights: bytes

    def write(self, folder: Path) -> Path:
        """Write them into a version's folder; returns the path of the graph, which OpenVINO reads."""
        path = folder / INT8
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(self.graph)
        path.with_suffix(".bin").write_bytes(self.weights)
        return path


def quantize(
    model: Any, images: UInt8Array, positions: Indices, scratch: Path, check: Callable[[], None]
) -> Int8Network | None:
    """Quantize a graph, with NNCF.

    The first layer, and what comes from the last one on, stay in float32: they cost most of the accuracy and little of
    the time.

    Args:
        model: an `openvino.Model` with one input, uint8 [n, height, width, channels].
        images: uint8 [n, height, width, channels]; may be a mapped file, of which one is read at a time.
        positions: which of them it is calibrated on.
        scratch: a folder for files on the way.
        check: called before each of the images; what it raises ends the work.

    Returns:
        None if there is nothing between the first layer and the last.
    """
    ov, nncf = import_openvino(), import_nncf()
    pixels: UInt8Array = np.asarray(images)

    def one(position: int) -> UInt8Array:
        check()
        return pixels[position : position + 1]

    nncf.set_log_level(logging.ERROR)
    with _no_progress_bars():
        quantized = nncf.quantize(
            model,
            nncf.Dataset(positions.tolist(), one),
            preset=nncf.QuantizationPreset.MIXED,
            target_device=nncf.TargetDevice.CPU,
            subset_size=len(positions),
            ignored_scope=nncf.IgnoredScope(names=_ends(model), validate=False),
        )
    if not any(operation.get_type_name() == _QUANTIZED for operation in quantized.get_ops()):
        return None
    path = scratch / Path(INT8).name
    ov.save_model(quantized, path, compress_to_fp16=False)
    return Int8Network(path.read_bytes(), path.with_suffix(".bin").read_bytes())


def import_nncf() -> ModuleType:
    """Import NNCF without the package by which it reports each call to its maker."""
    import_openvino()
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    if (known := modules.get("nncf")) is not None:
        return known
    reporter = "openvino_telemetry"
    before = modules.get(reporter)
    # It carries on where that cannot be imported, and None says that it cannot.
    modules[reporter] = None
    try:
        import nncf
    finally:
        del modules[reporter]
        if before is not None:
            modules[reporter] = before
    return cast(ModuleType, nncf)


def _ends(model: Any) -> list[str]:
    """Names of the operations that stay as they are: first layers, and all that has at most one layer still to come."""
    operations = model.get_ordered_ops()
    above: dict[str, int] = {}
    below: dict[str, int] = {}
    for operation in operations:
        sources = (entry.get_source_output().get_node() for entry in operation.inputs())
        most = max((above[source.get_friendly_name()] for source in sources), default=0)
        above[operation.get_friendly_name()] = most + _is_layer(operation)
    for operation in reversed(operations):
        targets = (entry.get_node() for output in operation.outputs() for entry in output.get_target_inputs())
        most = max((below[target.get_friendly_name()] for target in targets), default=0)
        below[operation.get_friendly_name()] = most + _is_layer(operation)
    names = [(operation.get_friendly_name(), _is_layer(operation)) for operation in operations]
    return [name for name, layer in names if (below[name] <= 1 and above[name] > 0) or (layer and above[name] == 1)]


def _is_layer(operation: Any) -> bool:
    return operation.get_type_name() in _LAYERS


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """NNCF draws them, which a log has no use for."""
    console = rich.get_console()
    quiet, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = quiet
