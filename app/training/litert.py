"""The LiteRT export of a version: the same graph once more, for an engine that is faster on small models."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (  # no public name leads to it
    convert_variables_to_constants_v2,
)

from app.preprocessing import Float32Array
from app.store.manifest import LITERT

SIGNATURE = "serving_default"

_log = logging.getLogger(__name__)


def write_litert(
    folder: Path,
    images: npt.NDArray[np.generic],
    expected: Float32Array,
    *,
    tolerance: float,
    probabilities: Callable[[Float32Array], Float32Array] = lambda output: output,
) -> bool:
    """Convert the SavedModel in `folder` to `model.tflite` beside it, if that answers the golden examples alike.

    Args:
        folder: holds the SavedModel.
        images: the golden examples as the graph takes them, [n, height, width, channels].
        expected: the probabilities that it must answer, [n, classes].
        tolerance: largest absolute difference allowed in any of them.
        probabilities: makes them of the graph's output.

    Returns False, and writes nothing, where LiteRT lacks an operation, or answers otherwise: the version is as good
    without.
    """
    graph = convert(folder)
    if graph is None:
        return False
    try:
        found = probabilities(_run(graph, images))
    # The interpreter raises whatever the graph runs it into.
    except Exception as error:
        _log.info("no LiteRT export: it fails on the golden examples: %s", _reason(error))
        return False
    # Written so that an answer that is not a number is a difference too.
    if found.shape != expected.shape or not np.abs(found - expected).max() <= tolerance:
        _log.warning("No LiteRT export: it answers the golden examples otherwise than the SavedModel.")
        return False
    (folder / LITERT).write_bytes(graph)
    return True


def convert(folder: Path) -> bytes | None:
    """The SavedModel in `folder` for LiteRT, in float32 and for any size of the batch; None: LiteRT cannot have it."""
    try:
        with tempfile.TemporaryDirectory() as frozen:
            _freeze(folder, Path(frozen))
            converter = tf.lite.TFLiteConverter.from_saved_model(frozen, signature_keys=[SIGNATURE])
            # Only what the runtime has by itself: TensorFlow's own operations would need TensorFlow.
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            # A variable of a converted graph has no value at first, and nothing would give it one.
            converter.experimental_enable_resource_variables = False
            return bytes(converter.convert())
    # The converter raises whatever the graph runs it into.
    except Exception as error:
        _log.info("no LiteRT export: %s", _reason(error))
        return None


def _freeze(source: Path, target: Path) -> None:
    """Write the signature alone, its variables made constants.

    By itself the converter only does that where nothing in the whole SavedModel could assign them, which is not so in
    what `tf.saved_model.save` writes of a Keras model: it would leave them without their values.
    """
    loaded = tf.saved_model.load(str(source))
    signature = loaded.signatures[SIGNATURE]
    ((name, spec),) = signature.structured_input_signature[1].items()
    (output,) = signature.structured_outputs
    frozen = convert_variables_to_constants_v2(signature, lower_control_flow=False)

    @tf.function(  # type: ignore[untyped-decorator]
        input_signature=[tf.TensorSpec(spec.shape, spec.dtype, name=name)]
    )
    def serve(image: Any) -> dict[str, Any]:
        (answer,) = tf.nest.flatten(frozen(image))
        return {output: answer}

    module = tf.Module()
    module.serve = serve
    tf.saved_model.save(module, str(target), signatures={SIGNATURE: serve})


def _run(graph: bytes, images: npt.NDArray[np.generic]) -> Float32Array:
    with warnings.catch_warnings():
        # That it moves to a package of its own, which is no part of what trains.
        warnings.simplefilter("ignore")
        interpreter = tf.lite.Interpreter(model_content=graph)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(given["index"], images.astype(given["dtype"]))
    interpreter.invoke()
    (answer,) = interpreter.get_output_details()
    return np.asarray(interpreter.get_tensor(answer["index"]), np.float32)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:300]
