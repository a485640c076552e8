"""Runs a SavedModel with TensorFlow: the reference, and the fallback for graphs that OpenVINO cannot read.

Import this module only to use it: TensorFlow takes seconds to load and some 400 MB.
"""

from __future__ import annotations

import gc
import logging
import os
from pathlib import Path
from typing import Any

from app.errors import InferenceFailed, VersionRefused
from app.preprocessing import Float32Array
from app.serving.runtimes.base import Batch
from app.serving.runtimes.inputs import scaled
from app.serving.runtimes.outputs import no_images, to_probabilities
from app.store.manifest import Manifest

SIGNATURE = "serving_default"

_log = logging.getLogger(__name__)


class TensorFlowRuntime:
    """A SavedModel's signature `serving_default`, in the precision that it was exported with."""

    name = "tensorflow-f32"

    def __init__(self, folder: Path, manifest: Manifest, *, lanes: int, threads: int) -> None:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        import tensorflow as tf

        self._tf = tf
        self._manifest = manifest
        self._loaded: Any | None = None
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError:
            _log.debug("TensorFlow runs already; its number of threads stays as it is.")
        try:
            loaded = tf.saved_model.load(str(folder))
        # The loader raises whatever a broken or foreign graph runs it into.
        except Exception as error:
            raise VersionRefused(f"TensorFlow cannot load the SavedModel: {_reason(error)}.") from error
        signature = loaded.signatures.get(SIGNATURE)
        if signature is None:
            known = ", ".join(sorted(loaded.signatures)) or "none"
            raise VersionRefused(f"The SavedModel has no signature {SIGNATURE!r}; it has: {known}.")
        inputs = signature.structured_input_signature[1]
        if len(inputs) != 1:
            raise VersionRefused(f"The graph has {len(inputs)} inputs; one, the images, is needed.")
        self._input, spec = next(iter(inputs.items()))
        self._dtype = spec.dtype
        outputs = signature.structured_outputs
        self._output = manifest.output.name if manifest.output.name in outputs else next(iter(outputs))
        if len(outputs) > 1 and manifest.output.name not in outputs:
            raise VersionRefused(
                f"The graph has no output {manifest.output.name!r}; its outputs are: {', '.join(sorted(outputs))}."
            )
        self._signature = signature
        # The signature does not own its variables: they live as long as this object.
        self._loaded = loaded

    def predict(self, batch: Batch, *, alone: bool = False) -> Float32Array:
        if self._loaded is None:
            raise InferenceFailed("The model has been unloaded.")
        if len(batch) == 0:
            return no_images(self._manifest)
        try:
            values = self._tf.constant(scaled(batch, self._manifest.preprocessing), self._dtype)
            output = self._signature(**{self._input: values})[self._output].numpy()
        # Errors of the graph have no common base below Exception.
        except Exception as error:
            raise InferenceFailed(f"TensorFlow failed: {_reason(error)}.") from error
        return to_probabilities(output, self._manifest)

    def close(self) -> None:
        self._loaded = None
        self._signature = None
        # A loaded graph is full of cycles; and the collector passes over what was there when the service had started.
        gc.unfreeze()
        gc.collect()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")[:500]
