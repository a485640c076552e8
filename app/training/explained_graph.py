"""The graph of a version, opened for looks inside: its layers, what they answer, and how answers depend on them.

Nothing is built again: the SavedModel's own signature is taken apart, so imported versions can be explained too, and
what is explained is the very graph that answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from app.errors import LayerNotFound, NotExplainable
from app.explanations import Layer, LayerKind
from app.preprocessing import Float32Array, UInt8Array, scale
from app.store.manifest import Manifest

SIGNATURE = "serving_default"

_CONVOLUTIONS = frozenset({"Conv2D", "DepthwiseConv2dNative", "_FusedConv2D"})
_POOLINGS = frozenset({"MaxPool", "MaxPoolV2", "AvgPool", "Mean", "Max"})
_ACTIVATIONS = frozenset({"Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Gelu", "Sigmoid", "Tanh", "Softplus", "Mish"})
# Scopes within a layer, which are none of their own.
_INNER = frozenset({"batchnorm", "convolution", "depthwise", "separable_conv2d", "moments", "truediv"})
# What Keras and TensorFlow add to names to keep them apart.
_NUMBERS = re.compile(r"(_\d+)+$")
_MOST_NAMED = 60
# Far below float32's least probability that matters, far above zero.
_TINY = 1e-30

Operation = Any
Tensor = Any


@dataclass(frozen=True)
class _Found:
    """A layer and its outputs, float [1, height, width, channels]: for the image, and for its mirror image if the
    graph looks at that too."""

    layer: Layer
    output: Tensor
    mirrored: Tensor | None
    convolution: Operation | None


@dataclass(frozen=True)
class Sight:
    """What a layer answered to an image, and what a class's score makes of it."""

    activations: Float32Array
    """[height, width, channels]."""
    gradients: Float32Array
    """Of the class's score with respect to these, [height, width, channels]."""


class ExplainedGraph:
    """A SavedModel's signature with its weights as constants. Not for several threads at a time."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Open the version in `folder`, whose files are verified already.

        Raises:
            NotExplainable: TensorFlow cannot open it, or not take it apart; with the reason.
        """
        self._preprocessing = manifest.preprocessing
        try:
            definition, fed, answered = _freeze(folder, manifest)
            graph = tf.Graph()
            with graph.as_default():
                self._image = tf.compat.v1.placeholder(fed.dtype, (1, *manifest.preprocessing.shape), "explained_image")
                (self._answer,) = tf.graph_util.import_graph_def(
                    definition, {fed.name: self._image}, [answered.name], name=""
                )
                self._scores = _scores(self._answer, manifest)
                if manifest.activation == "softmax":
                    self._answer = tf.nn.softmax(self._answer)
        # Loader and importer raise whatever a foreign graph runs them into.
        except Exception as error:
            raise NotExplainable(f"TensorFlow cannot take its SavedModel apart: {_reason(error)}.") from error
        self._graph = graph
        order = _order(self._image.op, self._answer.op)
        mirrored = _mirrored(order)
        self._depths = order
        self._found = {found.layer.name: found for found in _pair(order, mirrored)}
        self._gradients: dict[str, list[Tensor]] = {}
        with graph.as_default():
            self._class = tf.compat.v1.placeholder(tf.int32, (), "explained_class")
            # Of one class, chosen when it runs: so each layer's gradients are built only once.
            self._score = tf.gather(self._scores, self._class, axis=1)
        # All threads that there are; this process gives way to the others anyway.
        self._session = tf.compat.v1.Session(graph=graph)

    @property
    def layers(self) -> list[Layer]:
        """Layers that answer with maps, from the image to the answer."""
        return [found.layer for found in self._found.values()]

    @property
    def last(self) -> Layer:
        """The deepest layer whose maps still tell places apart; no pooling, which only makes them coarser.

        Raises:
            NotExplainable: there is none.
        """
        maps = [layer for layer in self.layers if layer.height * layer.width > 1]
        for layers in ([layer for layer in maps if layer.kind != "pooling"], maps):
            if layers:
                return layers[-1]
        raise NotExplainable("It has no convolutions, nor anything else that answers with maps.")

    def layer(self, name: str | None) -> Layer:
        """The layer of that name; None: `last`.

        Raises:
            LayerNotFound: naming those that there are.
            NotExplainable: there is none at all.
        """
        if name is None:
            return self.last
        if name not in self._found:
            names = list(self._found)
            shown = ", ".join(names[:_MOST_NAMED]) or "none"
            more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            raise LayerNotFound(f"There is no layer {name[:80]!r}. There is: {shown}{more}.")
        return self._found[name].layer

    def predict(self, image: UInt8Array) -> Float32Array:
        """What the version answers to an image [height, width, channels]: probabilities, float32 [classes]."""
        [answer] = self._run([self._answer], image)
        return np.asarray(answer[0])

    def activations(self, name: str, image: UInt8Array) -> Float32Array:
        """Maps of a layer for an image [height, width, channels], float32 [height, width, channels] of the layer's."""
        [maps] = self._run([self._found[name].output], image)
        return np.asarray(maps[0])

    def look(self, name: str, image: UInt8Array, class_index: int) -> list[Sight]:
        """A layer's maps and their gradients for a class's score: its logit, before the softmax.

        The second of the list, if there is one, is for the mirror image, put the right way round again.

        Raises:
            NotExplainable: the graph has something in it that TensorFlow cannot differentiate.
        """
        found = self._found[name]
        outputs = [found.output] if found.mirrored is None else [found.output, found.mirrored]
        values = self._run([*outputs, *self._gradients_of(name, outputs)], image, class_index)
        sights = [
            Sight(activations[0], gradients[0])
            for activations, gradients in zip(values[: len(outputs)], values[len(outputs) :], strict=True)
        ]
        return sights[:1] + [Sight(other.activations[:, ::-1], other.gradients[:, ::-1]) for other in sights[1:]]

    def kernels(self) -> tuple[str, Float32Array]:
        """The name of the first convolution, and its weights [height, width, channels, filters], red first.

        Raises:
            NotExplainable: there is none, or its weights are computed from the image.
        """
        found = [
            (found.layer.name, found.convolution) for found in self._found.values() if found.convolution is not None
        ]
        if not found:
            raise NotExplainable("It has no convolutions, so it has no filters to show.")
        # Of several that see the image the one with the largest filters: others only fit its channels to their sum.
        name, first = min(
            found, key=lambda entry: (self._depths[entry[1]], -entry[1].inputs[1].shape[:2].num_elements())
        )
        try:
            weights = np.asarray(self._session.run(first.inputs[1]), np.float32)
        except Exception as error:
            raise NotExplainable(f"The weights of its first convolution cannot be read: {_reason(error)}.") from error
        if first.type == "DepthwiseConv2dNative":
            # Each of these sees one channel only.
            weights = weights.reshape(*weights.shape[:2], 1, -1)
        if self._preprocessing.scaling == "caffe":
            # It sees blue first.
            weights = weights[:, :, ::-1]
        return name, weights

    def close(self) -> None:
        """Free it."""
        self._session.close()

    def _gradients_of(self, name: str, outputs: Sequence[Tensor]) -> list[Tensor]:
        if name not in self._gradients:
            try:
                with self._graph.as_default():
                    gradients = tf.gradients(self._score, list(outputs), unconnected_gradients="zero")
            except (LookupError, ValueError, TypeError, NotImplementedError) as error:
                raise NotExplainable(f"TensorFlow cannot differentiate it: {_reason(error)}.") from error
            self._gradients[name] = gradients
        return self._gradients[name]

    def _run(self, tensors: list[Tensor], image: UInt8Array, class_index: int = 0) -> list[Float32Array]:
        fed = {self._image: scale(image[np.newaxis], self._preprocessing), self._class: class_index}
        try:
            values = self._session.run(tensors, fed)
        # Errors of the graph have no common base below Exception.
        except Exception as error:
            raise NotExplainable(f"Its graph fails on the image: {_reason(error)}.") from error
        return [np.nan_to_num(np.asarray(value, np.float32)) for value in values]


def _freeze(folder: Path, manifest: Manifest) -> tuple[Any, Tensor, Tensor]:
    """The signature's graph without variables or calls of functions, its input and its output."""
    # The signature does not own its variables: they live as long as this.
    loaded = tf.saved_model.load(str(folder))
    signature = loaded.signatures[SIGNATURE]
    names = sorted(signature.structured_outputs)
    output = names.index(manifest.output.name) if manifest.output.name in names else 0
    frozen = convert_variables_to_constants_v2(signature, lower_control_flow=False)
    definition = frozen.graph.as_graph_def()
    for node in definition.node:
        # Names of functions that only the process knew which saved the graph; without, the operations that are there
        # are differentiated, which gives the same.
        node.attr.pop("_gradient_op_type", None)
    return definition, frozen.inputs[0], frozen.outputs[output]


def _scores(answer: Tensor, manifest: Manifest) -> Tensor:
    """Scores of the classes, [1, classes]: the logits, where a softmax is found on the way back from the answer."""
    if manifest.activation == "softmax":
        return answer
    classes = len(manifest.labels)
    logits, seen, ahead = [], {answer.op}, [answer.op]
    while ahead:
        operation = ahead.pop()
        if operation.type == "Softmax" and tuple(operation.inputs[0].shape) == (1, classes):
            logits.append(operation.inputs[0])
            continue
        for tensor in operation.inputs:
            # Beyond what has the classes' shape it is no longer about answers.
            if tensor.op not in seen and tensor.shape.rank is not None and tuple(tensor.shape) == (1, classes):
                seen.add(tensor.op)
                ahead.append(tensor.op)
    # Of the image, and perhaps its mirror image. Without any softmax: what its logarithm would be given.
    return tf.add_n(logits) if logits else tf.math.log(tf.maximum(answer, _TINY))


def _order(image: Operation, answer: Operation) -> dict[Operation, int]:
    """Operations on the way from the image to the answer, and how deep each lies; in that order."""
    leading = _reachable([answer], lambda operation: (tensor.op for tensor in operation.inputs))
    depths = {image: 0}
    ahead = [image]
    waiting: dict[Operation, int] = {}
    on_way = _reachable(
        [image], lambda operation: (user for tensor in operation.outputs for user in tensor.consumers())
    )
    on_way &= leading
    for operation in on_way:
        waiting[operation] = len({tensor.op for tensor in operation.inputs} & on_way)
    while ahead:
        operation = ahead.pop()
        for user in {user for tensor in operation.outputs for user in tensor.consumers()} & on_way:
            depths[user] = max(depths.get(user, 0), depths[operation] + 1)
            waiting[user] -= 1
            if not waiting[user]:
                ahead.append(user)
    return dict(sorted(depths.items(), key=lambda entry: (entry[1], entry[0].name)))


def _reachable(start: Iterable[Operation], following: Any) -> set[Operation]:
    seen = set(start)
    ahead = list(seen)
    while ahead:
        for operation in following(ahead.pop()):
            if operation not in seen:
                seen.add(operation)
                ahead.append(operation)
    return seen


def _mirrored(order: Mapping[Operation, int]) -> set[Operation]:
    """Those that see the mirror image only: what comes of a flip of the image."""
    mirrored: set[Operation] = set()
    for operation in order:
        before = [tensor.op for tensor in operation.inputs if tensor.op in order]
        if _flips(operation) or (before and all(op in mirrored for op in before)):
            mirrored.add(operation)
    return mirrored


def _flips(operation: Operation) -> bool:
    """Whether it puts left on the right. Red and blue may be swapped by the same operation."""
    if operation.type != "ReverseV2" or operation.outputs[0].shape.rank != 4:
        return False
    axes = tf.get_static_value(operation.inputs[1])
    return axes is not None and [int(axis) % 4 for axis in np.ravel(axes)] == [2]


def _pair(order: Mapping[Operation, int], mirrored: set[Operation]) -> list[_Found]:
    """The layers, with the mirror image's to each where there are as many."""
    plain = _layers([operation for operation in order if operation not in mirrored])
    other = _layers([operation for operation in order if operation in mirrored])
    pairs = [found.layer for found in plain] == [found.layer for found in other]
    return [replace(found, mirrored=other[at].output if pairs else None) for at, found in enumerate(plain)]


def _layers(operations: Sequence[Operation]) -> list[_Found]:
    """Layers, given operations in the order of their depth.

    What the graph knows of layers are the scopes of its operations' names. A layer's output is that of the last
    operation in its scope.
    """
    after: set[Operation] = set()
    for operation in operations:
        if operation.type in _CONVOLUTIONS or any(tensor.op in after for tensor in operation.inputs):
            after.add(operation)
    maps = [op for op in operations if op in after and _is_map(op)]
    crowded = _crowded(maps)
    scopes: dict[str, list[Operation]] = {}
    for operation in maps:
        scope = _scope(operation, crowded)
        # To the end: a layer stands where its output does.
        scopes[scope] = [*scopes.pop(scope, []), operation]
    named = [(_name(scope), members) for scope, members in scopes.items()]
    bases = [name for name, _ in named]
    counts: dict[str, int] = {}
    layers = []
    for base, members in named:
        counts[base] = counts.get(base, 0) + 1
        name = f"{base}_{counts[base]}" if bases.count(base) > 1 else base
        output = members[-1].outputs[0]
        height, width, channels = (int(size) for size in output.shape[1:])
        layer = Layer(name=name, kind=_kind(members), height=height, width=width, channels=channels)
        convolution = next((operation for operation in members if operation.type in _CONVOLUTIONS), None)
        layers.append(_Found(layer, output, None, convolution))
    return layers


def _is_map(operation: Operation) -> bool:
    if not operation.outputs:
        return False
    output = operation.outputs[0]
    return bool(output.shape.rank == 4 and output.shape.is_fully_defined() and output.dtype.is_floating)


def _crowded(operations: Iterable[Operation]) -> frozenset[str]:
    """Scopes that are no layers: they have several convolutions, as a bare function has."""
    counts: dict[str, int] = {}
    for operation in operations:
        if operation.type in _CONVOLUTIONS:
            scope = _scope(operation, frozenset())
            counts[scope] = counts.get(scope, 0) + 1
    return frozenset(scope for scope, count in counts.items() if count > 1)


def _scope(operation: Operation, crowded: frozenset[str]) -> str:
    """The scope that stands for the operation's layer; of an operation on its own, its name."""
    parts = operation.name.split("/")[:-1]
    while parts and _NUMBERS.sub("", parts[-1]) in _INNER:
        parts.pop()
    scope = "/".join(parts)
    # "PartitionedCall" is what is left of a function's call.
    alone = not parts or _NUMBERS.sub("", parts[-1]).endswith("PartitionedCall") or scope in crowded
    return f"{scope}/{_snake(operation.type)}:{operation.name}" if alone else scope


def _name(scope: str) -> str:
    """The name of a layer, without what only keeps names apart."""
    if ":" in scope:
        scope = scope.partition(":")[0]
    return _NUMBERS.sub("", scope.rpartition("/")[2])


def _snake(text: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", text).lower()


def _kind(members: Sequence[Operation]) -> LayerKind:
    types = {operation.type for operation in members}
    if types & _CONVOLUTIONS:
        return "convolution"
    if types & _POOLINGS:
        return "pooling"
    return "activation" if members[-1].type in _ACTIVATIONS else "other"


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).strip().rstrip(".")[:300]
