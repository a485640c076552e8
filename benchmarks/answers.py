"""How the servers' answers read, and whether they are what TensorFlow answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.preprocessing import Float32Array

Probabilities = Mapping[int, float]
"""Class index to probability; the likeliest classes at least."""

Read = Callable[[bytes], list[Probabilities]]
"""From the body of a response to the answer to each image of the request."""


def read_predictions(body: bytes) -> list[Probabilities]:
    """The product's format, which the peers' servers use too: `predictions` with the likeliest classes in `top`."""
    return [_top(prediction) for prediction in json.loads(body)["predictions"]]


def read_list(body: bytes) -> list[Probabilities]:
    """The same without the outermost document: one prediction an image."""
    return [_top(prediction) for prediction in json.loads(body)]


def read_tensors(body: bytes) -> list[Probabilities]:
    """The Open Inference Protocol: outputs `class_index` and `probability`, a row an image, one after the other."""
    indices, probabilities = json.loads(body)["outputs"]
    rows, classes = indices["shape"]
    pairs = list(zip(indices["data"], probabilities["data"], strict=True))
    return [dict(pairs[row * classes : (row + 1) * classes]) for row in range(rows)]


def _top(prediction: Mapping[str, Any]) -> Probabilities:
    return {int(entry["class_index"]): float(entry["probability"]) for entry in prediction["top"]}


def difference(answers: Sequence[Probabilities], expected: Float32Array, tolerance: float) -> str | None:
    """What is wrong with answers to the first images, in words; None if nothing is.

    Args:
        answers: one an image.
        expected: probabilities, float32 [images or more, classes].
        tolerance: the largest difference of any probability that is allowed. The likeliest class must be the same
            one, or one that is as likely within the tolerance.
    """
    for number, (answer, row) in enumerate(zip(answers, expected, strict=False)):
        if not answer:
            return f"image {number} got no probabilities"
        best = max(answer, key=lambda index: answer[index])
        if row.max() - row[best] > tolerance:
            return f"image {number} is class {int(row.argmax())} for TensorFlow, and {best} here"
        largest = max(abs(probability - float(row[index])) for index, probability in answer.items())
        if not largest <= tolerance:
            return f"probabilities of image {number} differ by {largest:.2g}, more than {tolerance:g}"
    return None
