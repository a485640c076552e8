"""What bfloat16 costs a version: its test split once more, computed as a server with bf16 would."""

from __future__ import annotations

from importlib.util import find_spec

import keras
import numpy as np

from app.openvino_import import import_openvino
from app.preprocessing import Float32Array
from app.store.manifest import PrecisionCheck
from app.store.registry import Registry
from app.training.dataset import TrainingData
from app.training.evaluate import Evaluation
from app.training.export import export
from app.training.reporter import Cancelled, Reporter

_BATCH = 64


def check_bf16(
    model: keras.Model, data: TrainingData, evaluation: Evaluation, registry: Registry, reporter: Reporter, threads: int
) -> PrecisionCheck | None:
    """Answer the test split in bf16, and compare with the evaluation in f32.

    Returns None where it cannot be measured here, which the log says; such a version is served in f32.

    Raises:
        Cancelled: the job was asked to stop.
    """
    if find_spec("openvino") is None:
        reporter.say("bf16 is not measured: OpenVINO is not installed (`fovea[serve]`)")
        return None
    try:
        answers = _answers(model, data, registry, reporter, threads)
    except Cancelled:
        raise
    # OpenVINO raises RuntimeError for nearly all, and others where Python meets C++. None is worth losing a network.
    except Exception as error:
        reporter.say(f"bf16 is not measured: OpenVINO fails ({type(error).__name__}: {error})")
        return None
    if answers is None:
        reporter.say("bf16 is not measured: this processor does not compute in it")
        return None
    if not np.isfinite(answers).all():
        reporter.say("bf16 does not do: some of its answers are not finite")
        return None
    check = compare(answers, evaluation.probabilities, data)
    reporter.say(
        f"bf16: accuracy {check.accuracy:.4f}, {check.agreement:.2%} of the images in the same class, probabilities "
        f"within {check.max_difference:.2g}: {'harmless' if check.harmless(evaluation.accuracy) else 'not harmless'}"
    )
    return check


def _answers(
    model: keras.Model, data: TrainingData, registry: Registry, reporter: Reporter, threads: int
) -> Float32Array | None:
    """The answers to the test split in bf16, float32 [n, classes]; None if this processor does not compute in it."""
    core = import_openvino().Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return None
    properties = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    # The network is exported for real once all is known of it.
    with registry.staging() as scratch:
        export(model, data.preprocessing, len(data.labels), scratch)
        compiled = core.compile_model(core.read_model(scratch), "CPU", properties)
    answers = []
    for start in range(0, len(data.test), _BATCH):
        answers.append(np.array(compiled(data.images[data.test[start : start + _BATCH]])[0], np.float32))
        reporter.check_cancelled()
    return np.concatenate(answers)


def compare(lower: Float32Array, full: Float32Array, data: TrainingData) -> PrecisionCheck:
    """Compare answers to the test split, float32 [n, classes], in bf16 and in f32."""
    predicted = lower.argmax(axis=1)
    return PrecisionCheck(
        accuracy=float((predicted == data.targets[data.test]).mean()),
        images=len(lower),
        agreement=float((predicted == full.argmax(axis=1)).mean()),
        max_difference=float(np.abs(lower - full).max()),
    )
