"""The LiteRT export of a version: the same graph once more, for an engine that is faster on small models."""

from __future__ import annotations

import logging
from pathlib import Path

import tensorflow as tf

from app.store.manifest import LITERT

SIGNATURE = "serving_default"

_log = logging.getLogger(__name__)


def write_litert(folder: Path) -> bool:
    """Convert the SavedModel in `folder` to `model.tflite` beside it, in float32 and for any size of the batch.

    Returns False, and writes nothing, where LiteRT lacks an operation: the version is as good without.
    """
    try:
        converter = tf.lite.TFLiteConverter.from_saved_model(str(folder), signature_keys=[SIGNATURE])
        # Only what the runtime has by itself: TensorFlow's own operations would need TensorFlow.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        (folder / LITERT).write_bytes(converter.convert())
    # The converter raises whatever the graph runs it into.
    except Exception as error:
        lines = str(error).strip().splitlines()
        _log.info("no LiteRT export: %s", (lines[0] if lines else type(error).__name__)[:300])
        (folder / LITERT).unlink(missing_ok=True)
        return False
    return True
