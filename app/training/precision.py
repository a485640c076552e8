"""What lower precisions cost a version, and give: its test split, answered as a server with them would."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np

from app.instructions import multiplies_int8
from app.jobs.spec import TrainingSpec
from app.openvino_import import import_openvino
from app.preprocessing import Float32Array, UInt8Array
from app.store.manifest import INT8_TOLERANCE, LowerPrecision, PrecisionCheck
from app.store.registry import Registry
from app.training.batches import in_pieces
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation
from app.training.export import export, golden_rows
from app.training.quantization import Int8Network, quantize
from app.training.reporter import Cancelled, Reporter

# Images that tell the ranges of int8: more of them changed nothing (docs/performance.md).
_CALIBRATION = 300
# The speed: in turns, so that both have the same share of a busy machine, and the shortest call of each.
_TIMED_BATCH = 8
_ROUNDS = 5
_ROUND_SECONDS = 0.03

Answer = Callable[[UInt8Array], Float32Array]
"""uint8 [n, height, width, channels] to probabilities, float32 [n, classes]."""


class Unmeasurable(Exception):
    """A precision cannot be measured here; says why."""


@dataclass(frozen=True)
class Lowered:
    """Lower precisions of a network. `int8`: what is stored for it; None where it does harm or was not measured."""

    checks: dict[str, PrecisionCheck] = field(default_factory=dict)
    int8: Int8Network | None = None


def check_precisions(
    model: keras.Model,
    data: TrainingData,
    evaluation: Evaluation,
    spec: TrainingSpec,
    registry: Registry,
    reporter: Reporter,
    threads: int,
) -> Lowered:
    """Answer the test split in the precisions of the spec, and compare with the evaluation in f32.

    What cannot be measured here is left out, and the log says why; it is not served then.

    Raises:
        Cancelled: the job was asked to stop.
        StorageFailed: the disk is full.
        OSError, MemoryError: the system refused something else.
    """
    checks: dict[str, PrecisionCheck] = {}
    int8 = None
    # The network is exported for real once all is known of it.
    with registry.staging() as scratch:
        engine = _Engine(model, data, scratch, reporter, threads)
        for precision in spec.precisions:
            try:
                answers, rates, network = engine.measure(precision)
            # A full disk and want of memory are the job's, and have advice of their own.
            except (Cancelled, OSError, MemoryError):
                raise
            except Unmeasurable as reason:
                reporter.say(f"{precision} is not measured: {reason}")
                continue
            # OpenVINO raises RuntimeError for nearly all, and others where Python meets C++. None is worth losing a
            # network.
            except Exception as error:
                reporter.say(f"{precision} is not measured: OpenVINO fails ({type(error).__name__}: {error})")
                continue
            if not np.isfinite(answers).all():
                reporter.say(f"{precision} does not do: some of its answers are not finite")
                continue
            check = compare(answers, evaluation.probabilities, data, bound=spec.precision_loss / 100, rates=rates)
            checks[precision] = check
            harmless = check.harmless(evaluation.accuracy)
            reporter.say(
                f"{precision}: accuracy {check.accuracy:.4f}, {check.agreement:.2%} of the images in the same class, "
                f"probabilities within {check.max_difference:.2g}, {rates[0] / rates[1]:.1f} times as fast: "
                f"{'harmless' if harmless else 'not harmless'}"
            )
            if harmless and network is not None:
                rows = golden_rows(data)
                if np.abs(answers[rows] - evaluation.probabilities[rows]).max() > INT8_TOLERANCE:
                    reporter.say("int8 is not stored: an image by which versions are checked is too far off in it")
                else:
                    int8 = network
    return Lowered(checks, int8)


def compare(
    lower: Float32Array,
    full: Float32Array,
    data: TrainingData,
    *,
    bound: float,
    rates: tuple[float, float] | None = None,
) -> PrecisionCheck:
    """Compare answers to the test split, float32 [n, classes], in a lower precision and in f32.

    `bound`: loss of accuracy that is put up with, as a share. `rates`: images a second of both.
    """
    predicted = lower.argmax(axis=1)
    return PrecisionCheck(
        accuracy=float((predicted == data.targets[data.test]).mean()),
        images=len(lower),
        agreement=float((predicted == full.argmax(axis=1)).mean()),
        max_difference=float(np.abs(lower - full).max()),
        bound=bound,
        images_per_second=rates[0] if rates else None,
        f32_images_per_second=rates[1] if rates else None,
    )


class _Engine:
    """OpenVINO with the network in all precisions."""

    def __init__(self, model: keras.Model, data: TrainingData, scratch: Path, reporter: Reporter, threads: int) -> None:
        """Nothing is done yet. `scratch`: an empty folder."""
        self._model = model
        self._data = data
        self._scratch = scratch
        self._reporter = reporter
        self._threads = threads
        self._core: Any | None = None
        self._full: Answer | None = None

    def measure(self, precision: LowerPrecision) -> tuple[Float32Array, tuple[float, float], Int8Network | None]:
        """Answer the test split in a precision.

        Returns:
            The answers, float32 [n, classes]; images a second in it and in f32; and the network that is stored for it.

        Raises:
            Unmeasurable: this machine cannot compute in it, or the network cannot.
        """
        if find_spec("openvino") is None:
            raise Unmeasurable("OpenVINO is not installed (`fovea[serve]`)")
        if self._core is None:
            self._core = import_openvino().Core()
            export(self._model, self._data.preprocessing, len(self._data.labels), self._scratch)
        if self._full is None:
            self._full = self._compiled(self._scratch, "f32")
        network = None
        if precision == "bf16":
            if "BF16" not in self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
                raise Unmeasurable("this processor does not compute in it")
            lower = self._compiled(self._scratch, "bf16")
        else:
            network = self._quantized()
            # As it will be read.
            lower = self._compiled(network.write(self._scratch), "f32")
        rates = self._rates(lower, self._full)
        answers = []
        for images, _ in in_pieces(self._data, self._data.test):
            answers.append(lower(images))
            self._reporter.check_cancelled()
        return np.concatenate(answers), rates, network

    def _quantized(self) -> Int8Network:
        assert self._core is not None
        if find_spec("nncf") is None:
            raise Unmeasurable("NNCF is not installed (`fovea[train]`)")
        if not multiplies_int8():
            raise Unmeasurable("this processor does not compute in it")
        data = self._data
        random = np.random.default_rng(0)
        chosen = np.sort(random.permutation(data.train)[:_CALIBRATION])
        graph = self._core.read_model(self._scratch)
        network = quantize(graph, data.images, chosen, self._scratch, self._reporter.check_cancelled)
        if network is None:
            raise Unmeasurable("the network has no layer between its first and its last, which stay as they are")
        return network

    def _compiled(self, path: Path, hint: str) -> Answer:
        assert self._core is not None
        properties = {
            "INFERENCE_PRECISION_HINT": hint,
            "INFERENCE_NUM_THREADS": self._threads,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = self._core.compile_model(self._core.read_model(path), "CPU", properties)
        return partial(_answer, compiled)

    def _rates(self, lower: Answer, full: Answer) -> tuple[float, float]:
        """Images a second of both."""
        images = np.ascontiguousarray(self._data.images[self._data.test[:_TIMED_BATCH]])
        shortest = [float("inf")] * 2
        for _ in range(_ROUNDS):
            for which, answer in enumerate((lower, full)):
                end = time.perf_counter() + _ROUND_SECONDS
                while (begun := time.perf_counter()) < end:
                    answer(images)
                    shortest[which] = min(shortest[which], time.perf_counter() - begun)
            self._reporter.check_cancelled()
        return len(images) / shortest[0], len(images) / shortest[1]


def _answer(compiled: Any, images: UInt8Array) -> Float32Array:
    return np.array(compiled(images)[0], np.float32)
