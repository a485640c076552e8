"""`python -m benchmarks.reference OUT VERSION IMAGE…`: what TensorFlow answers, for others to be compared with.

The version's SavedModel runs on the arrays that `app.preprocessing.to_array` makes, one image at a time, and the
probabilities are written as float32 [images, classes].
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from app.preprocessing import scale, to_array
from app.store.manifest import MANIFEST, Manifest


def main(out: str, version: str, *images: str) -> None:
    manifest = Manifest.model_validate_json((Path(version) / MANIFEST).read_bytes())
    signature = tf.saved_model.load(version).signatures["serving_default"]
    rows = []
    for image in images:
        array = to_array(Path(image).read_bytes(), manifest.preprocessing)[None]
        batch = scale(array, manifest.preprocessing).astype(manifest.input.dtype)
        scores = signature(**{manifest.input.name: tf.constant(batch)})[manifest.output.name]
        rows.append((tf.nn.softmax(scores) if manifest.activation == "softmax" else scores).numpy()[0])
    np.save(out, np.stack(rows))


if __name__ == "__main__":
    main(*sys.argv[1:])
