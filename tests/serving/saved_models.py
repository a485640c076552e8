"""Builds small SavedModels, in a process of its own: `python -m tests.serving.saved_models FOLDER`.

Each is a folder of the name below, with `reference.npz` beside its graph: `images` (uint8 [n, 28, 28, 1], before
scaling) and `probabilities` (float32 [n, 3]) as TensorFlow computes them; and all that can with their LiteRT export.

plain       uint8 `image` → `probabilities`, scaling inside
other       the same with other weights
logits      uint8 `image` → `logits`: the softmax is left to the runtime
scaled      float32 `image` in 0..1 → `probabilities`, as imported models are
nan         `plain` with one weight that is not a number
unreadable  `plain` with an operation that OpenVINO does not have
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

SIZE = 28
CLASSES = 3


def build(root: Path) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    import keras
    import tensorflow as tf

    from app.store.manifest import LITERT
    from app.training.litert import convert

    images = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 1), np.uint8)

    def network(seed: int, *, uint8: bool = True, softmax: bool = True) -> keras.Model:
        keras.utils.set_random_seed(seed)
        pixels = keras.Input((SIZE, SIZE, 1), dtype="uint8" if uint8 else "float32", name="image")
        x = keras.layers.Rescaling(1 / 255)(pixels) if uint8 else pixels
        x = keras.layers.Conv2D(4, 3, activation="relu")(x)
        x = keras.layers.Flatten()(keras.layers.MaxPooling2D(4)(x))
        return keras.Model(pixels, keras.layers.Dense(CLASSES, activation="softmax" if softmax else None)(x))

    def export(name: str, model: keras.Model, *, output: str = "probabilities", unreadable: bool = False) -> None:
        dtype = model.inputs[0].dtype

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            answer = model(image, training=False)
            if unreadable:
                answer = answer * tf.strings.to_number(tf.strings.as_string(tf.ones_like(answer)))
            return {output: answer}

        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, [tf.TensorSpec((None, SIZE, SIZE, 1), dtype, name="image")])
        archive.write_out(str(root / name), verbose=False)
        graph = convert(root / name)
        assert (graph is None) is unreadable
        if graph is not None:
            (root / name / LITERT).write_bytes(graph)
        seen = images if dtype == "uint8" else images.astype(np.float32) / np.float32(255)
        answer = serve(tf.constant(seen))[output]
        if output == "logits":
            answer = tf.nn.softmax(answer)
        np.savez(root / name / "reference.npz", images=images, probabilities=answer.numpy())

    export("plain", network(1))
    export("other", network(2))
    export("logits", network(3, softmax=False), output="logits")
    export("scaled", network(4, uint8=False))
    broken = network(5)
    weights = broken.get_weights()
    weights[-1][0] = np.nan
    broken.set_weights(weights)
    export("nan", broken)
    export("unreadable", network(6), unreadable=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
