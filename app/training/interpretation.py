"""What a network looks at and looks for, as numbers: Grad-CAM, activation maps, filters of the first convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from app.errors import InvalidRequest
from app.preprocessing import Float32Array, UInt8Array
from app.training.explained_graph import ExplainedGraph

_MOST_LABELS = 100


@dataclass(frozen=True)
class Heat:
    """Where a class was seen."""

    label: str
    probability: float
    layer: str
    values: Float32Array
    """[height, width] of the layer, 0 to 1; all 0 where nothing speaks for the class."""


@dataclass(frozen=True)
class Maps:
    """What a layer answered."""

    layer: str
    values: Float32Array
    """[height, width, channels]."""


def gradcam(
    graph: ExplainedGraph,
    image: UInt8Array,
    labels: Sequence[str],
    *,
    layer: str | None = None,
    label: str | None = None,
) -> Heat:
    """Which places of an image [height, width, channels] speak for a class, as a layer sees them.

    Each map of the layer is weighted with the mean of its gradient for the class's score, and what their sum has above
    zero is kept (Selvaraju et al., "Grad-CAM", 2017). A version that answers with the mean over the image and its
    mirror image is looked into for both.

    Args:
        layer: None: the last one that tells places apart.
        label: None: the class that the version answers with.

    Raises:
        InvalidRequest: there is no such class.
        LayerNotFound, NotExplainable.
    """
    probabilities = graph.predict(image)
    index = int(probabilities.argmax()) if label is None else _index(labels, label)
    name = graph.layer(layer).name
    sights = graph.look(name, image, index)
    seen = np.mean([sight.activations @ sight.gradients.mean(axis=(0, 1)) for sight in sights], axis=0)
    heat = np.maximum(seen, 0).astype(np.float32)
    highest = heat.max()
    if highest > 0:
        heat /= highest
    return Heat(labels[index], float(probabilities[index]), name, heat)


def activations(graph: ExplainedGraph, image: UInt8Array, *, layer: str | None = None) -> Maps:
    """Maps of a layer for an image [height, width, channels]; of the first layer where none is named.

    Raises:
        LayerNotFound, NotExplainable.
    """
    name = (graph.layers[0] if layer is None and graph.layers else graph.layer(layer)).name
    return Maps(name, graph.activations(name, image))


def filters(graph: ExplainedGraph) -> tuple[str, UInt8Array]:
    """The name of the first convolution, and its filters as pictures, uint8 [filters, height, width, 1 or 3].

    Each on its own scale, with 0 as the middle grey, since filters differ much in strength. Of filters that see other
    than one or three channels the mean over the channels is shown.

    Raises:
        NotExplainable: there is none.
    """
    name, kernels = graph.kernels()
    if kernels.shape[2] not in (1, 3):
        kernels = kernels.mean(axis=2, keepdims=True)
    strongest = np.abs(kernels).max(axis=(0, 1, 2), keepdims=True)
    scaled = np.divide(kernels, strongest, out=np.zeros_like(kernels), where=strongest > 0)
    return name, np.rint(127.5 + 127.5 * scaled).astype(np.uint8).transpose(3, 0, 1, 2)


def _index(labels: Sequence[str], label: str) -> int:
    if label not in labels:
        shown = ", ".join(labels[:_MOST_LABELS])
        more = f" and {len(labels) - _MOST_LABELS} more" if len(labels) > _MOST_LABELS else ""
        raise InvalidRequest(f"The version knows no label {label[:80]!r}. Allowed: {shown}{more}.")
    return labels.index(label)
