"""What is the same in all peers with TensorFlow: one decoding, one call of the SavedModel, one kind of answer.

Runs in the peers' own environments: of the project's requirements it needs NumPy and Pillow only.
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

_TOP = 5


class Images:
    """From encoded bytes to what the model takes, as the version's manifest says it."""

    def __init__(self) -> None:
        self.version = Path(os.environ["BENCH_VERSION"])
        self.about: dict[str, Any] = json.loads((self.version / "model.json").read_text())
        preprocessing = self.about["preprocessing"]
        self._size = (preprocessing["width"], preprocessing["height"])
        self._mode = "L" if preprocessing["color"] == "grayscale" else "RGB"
        self._scaled = preprocessing["scaling"] == "-1..1"

    def decode(self, data: bytes) -> Array:
        """One image as [height, width, channels], uint8."""
        return self.array(Image.open(io.BytesIO(data)))

    def array(self, image: Image.Image) -> Array:
        """One opened image as [height, width, channels], uint8."""
        resized = image.convert(self._mode).resize(self._size, Image.Resampling.BILINEAR)
        return np.asarray(resized).reshape(self._size[1], self._size[0], -1)

    def batch(self, arrays: list[Array]) -> Array:
        """The model's input [n, height, width, channels], scaled as it takes it."""
        stacked = np.stack(arrays)
        return stacked.astype(np.float32) / 127.5 - 1 if self._scaled else stacked


class Model(Images):
    """The SavedModel in TensorFlow."""

    def __init__(self) -> None:
        super().__init__()
        # Those that only decode do without.
        import tensorflow as tf

        self._constant = tf.constant
        self._saved_model = tf.saved_model.load(str(self.version))
        self._signature = self._saved_model.signatures["serving_default"]

    def probabilities(self, arrays: list[Array]) -> Array:
        """float32 [n, classes] for uint8 images."""
        answers = self._signature(**{self.about["input"]["name"]: self._constant(self.batch(arrays))})
        found: Array = answers[self.about["output"]["name"]].numpy()
        return found

    def answer(self, row: Array) -> dict[str, Any]:
        """The document for one image: the likeliest classes."""
        labels = self.about["labels"]
        top = [
            {"label": labels[index], "class_index": int(index), "probability": float(row[index])}
            for index in np.argsort(row)[::-1][:_TOP]
        ]
        return {"label": top[0]["label"], "probability": top[0]["probability"], "top": top}
