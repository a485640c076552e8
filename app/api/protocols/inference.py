"""The Open Inference Protocol's tensors, whatever they travel in: from a request's inputs to images, and from an answer
to outputs.

Whoever reads a request makes `InputTensor`s and `RequestedOutput`s of it, and whoever writes an answer renders
`OutputTensor`s. A model takes one input of two: `image`, the tensor that its graph takes, or `image_bytes`, encoded
images. It has one output, probabilities.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

from app.api.protocols.rows import rows_of
from app.errors import InvalidRequest, PayloadTooLarge
from app.preprocessing import Float32Array
from app.serving.classifier import Answer
from app.serving.tensors import PROBABILITIES, TENSOR, Image, Tensor

IMAGE = TENSOR
"""Input: numbers [n, height, width, channels], preprocessed. Also known by the name that the version's graph has."""
IMAGE_BYTES = "image_bytes"
"""Input: BYTES [n], encoded images."""
OUTPUT = PROBABILITIES
"""Output: FP32 [n, classes]. Also known by the name that the version's graph has, where that gives probabilities."""
BYTES = "BYTES"

# Little-endian, as they are on the wire.
DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""What the elements of each datatype are, but of BYTES."""

_AXES = 8
_SHOWN = 40
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input as a request has it; nothing of it is checked yet."""

    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes | memoryview | None = None
    """The elements, row-major and little-endian, each of BYTES with its length in four bytes before it; or None."""
    values: Sequence[Any] | None = None
    """The elements where `raw` is None: row-major, flat or in nested lists. Those of BYTES are `bytes`."""


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that a request asks for."""

    name: str
    classification: int = 0
    """How many of the most probable classes to name; 0: the probabilities themselves."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output of an answer."""

    name: str
    datatype: str
    """FP32, or BYTES for classifications."""
    shape: tuple[int, int]
    """[n, classes], or [n, classification]."""
    values: Float32Array | list[bytes]
    """Float32 of that shape; or the elements of BYTES, row-major: `probability:index:label`."""

    def raw(self) -> bytes:
        """The elements as in `InputTensor.raw`."""
        if isinstance(self.values, list):
            return b"".join(_LENGTH.pack(len(value)) + value for value in self.values)
        return self.values.astype("<f4", copy=False).tobytes()


def read_images(inputs: Sequence[InputTensor], *, most: int) -> list[Image]:
    """The images of a request's inputs: encoded files, or tensors that are views of `raw`.

    Args:
        most: images that are allowed.

    Raises:
        InvalidRequest: naming what is wrong and what is allowed. Whether a tensor fits its model says the engine.
        PayloadTooLarge: more images than `most`.
    """
    if len(inputs) != 1:
        raise InvalidRequest(
            f"The request has {len(inputs)} inputs. Allowed: one, {IMAGE_BYTES!r} (BYTES, encoded images) or {IMAGE!r} "
            "(a preprocessed tensor)."
        )
    [tensor] = inputs
    where = f"Input {tensor.name[:_SHOWN]!r}"
    if tensor.datatype != BYTES and tensor.datatype not in DTYPES:
        allowed = ", ".join([*DTYPES, BYTES])
        raise InvalidRequest(f"{where} has the datatype {tensor.datatype[:_SHOWN]!r}. Allowed: {allowed}.")
    if (tensor.datatype == BYTES) != (tensor.name == IMAGE_BYTES):
        raise InvalidRequest(
            f"{where} has the datatype {tensor.datatype}. Allowed: encoded images as BYTES in the input "
            f"{IMAGE_BYTES!r}, or a preprocessed tensor of numbers in {IMAGE!r}."
        )
    shape = _check_shape(tensor.shape, where)
    count = shape[0]
    if tensor.datatype == BYTES:
        # Some write a column.
        if len(shape) != 1 and shape[1:] != (1,):
            raise InvalidRequest(f"{where} has the shape {list(shape)}. Allowed: [n] or [n, 1], an element an image.")
    elif len(shape) != 4:
        raise InvalidRequest(f"{where} has the shape {list(shape)}. Allowed: [n, height, width, channels].")
    if not count:
        raise InvalidRequest(f"{where} holds no image; at least one is needed.")
    if 0 in shape:
        # NumPy knows no array of nothing with sides as long as they may be said here.
        raise InvalidRequest(f"{where} has the shape {list(shape)}, which holds no element.")
    if count > most:
        raise PayloadTooLarge(f"{where} holds {count} images; at most {most} are allowed in one request.")
    if tensor.datatype == BYTES:
        return [*_elements(tensor, count, where)]
    array = _array(tensor, shape, where)
    return [Tensor(image, typed=True) for image in array]


def render_outputs(answer: Answer, requested: Sequence[RequestedOutput]) -> list[OutputTensor]:
    """The outputs of an answer, in the order requested; all, which is one, if none is.

    Raises:
        InvalidRequest: there is no such output, or it is asked for twice.
        FoveaError: an image has no answer; the protocol knows no answers in part.
    """
    names = [output.name for output in requested]
    for output in requested:
        if output.name not in (answer.output, OUTPUT):
            allowed = " or ".join(repr(name) for name in dict.fromkeys((answer.output, OUTPUT)))
            raise InvalidRequest(f"{answer.model} has no output {output.name[:_SHOWN]!r}. Allowed: {allowed}.")
        if names.count(output.name) > 1:
            raise InvalidRequest(f"The output {output.name!r} is asked for twice.")
    rows = rows_of(answer)
    # Of one image, as most requests are, stacking would take longer than all else here.
    probabilities = rows[0][None] if len(rows) == 1 else np.stack(rows)
    outputs = []
    for output in requested or (RequestedOutput(answer.output),):
        if output.classification:
            outputs.append(_classification(output, probabilities, answer.labels))
        else:
            outputs.append(OutputTensor(output.name, "FP32", _pair(probabilities.shape), probabilities))
    return outputs


def classification_of(parameters: Mapping[str, object], where: str) -> int:
    """The parameter `classification` of a requested output, for `RequestedOutput`; 0 where there is none.

    Raises:
        InvalidRequest: it is no whole number from 0 up; naming `where`.
    """
    return _whole(parameters, "classification", where) or 0


def timeout_of(parameters: Mapping[str, object]) -> float | None:
    """Seconds that a request's parameter `timeout`, in microseconds, allows for its answer; None: it says nothing.

    `priority` beside it is checked, and has no meaning here: requests are answered in their order.

    Raises:
        InvalidRequest: one of them is no whole number from 0 up.
    """
    _whole(parameters, "priority", "The request")
    timeout = _whole(parameters, "timeout", "The request")
    return timeout / 1e6 if timeout else None


def refuse_unsupported(parameters: Mapping[str, object], where: str) -> None:
    """Refuse what would not mean here what it says; parameters that are not known have no meaning.

    Raises:
        InvalidRequest: tensors in shared memory, or sequences of requests; naming `where`.
    """
    for name in parameters:
        if name.startswith("shared_memory_"):
            raise InvalidRequest(f"{where}: {name[:_SHOWN]!r} is not supported. Send the tensor in the request.")
        if name == "sequence_id":
            raise InvalidRequest(f"{where}: sequences are not supported; each request is answered for itself.")


def _check_shape(shape: Sequence[int], where: str) -> tuple[int, ...]:
    axes = tuple(shape[: _AXES + 1])
    if not 1 <= len(axes) <= _AXES or any(type(axis) is not int or axis < 0 for axis in axes):
        raise InvalidRequest(f"{where}: its shape has to be 1 to {_AXES} whole numbers from 0 up.")
    return axes


def _elements(tensor: InputTensor, count: int, where: str) -> list[bytes]:
    """The elements of BYTES."""
    elements: list[bytes] = []
    if tensor.raw is None:
        _, elements = _flatten(tensor.values or [], where)
        if not all(isinstance(element, bytes) for element in elements):
            raise InvalidRequest(f"{where}: its elements have to be encoded images.")
    else:
        view, at = memoryview(tensor.raw), 0
        while at < len(view) and len(elements) <= count:
            begin = at + _LENGTH.size
            if begin > len(view) or (end := begin + _LENGTH.unpack_from(view, at)[0]) > len(view):
                raise InvalidRequest(
                    f"{where} ends within element {len(elements)}. Each has its length before it, in four bytes, "
                    "little-endian."
                )
            elements.append(bytes(view[begin:end]))
            at = end
    if len(elements) != count:
        found = f"more than {count}" if len(elements) > count else len(elements)
        raise InvalidRequest(f"{where} has {found} elements, and the shape {list(tensor.shape)}.")
    return elements


def _array(tensor: InputTensor, shape: tuple[int, ...], where: str) -> npt.NDArray[Any]:
    """A tensor of numbers; a view of `raw`."""
    dtype = DTYPES[tensor.datatype]
    size = math.prod(shape)
    if tensor.raw is not None:
        if len(tensor.raw) != size * dtype.itemsize:
            raise InvalidRequest(
                f"{where} has {len(tensor.raw)} bytes; {tensor.datatype} {list(shape)} takes {size * dtype.itemsize}."
            )
        return np.frombuffer(tensor.raw, dtype).reshape(shape)
    found, leaves = _flatten(tensor.values or [], where)
    if math.prod(found) != size or (len(found) != 1 and found != shape):
        raise InvalidRequest(f"{where} has data of the shape {list(found)}, and the shape {list(shape)}.")
    return _cast(leaves, tensor.datatype, where).reshape(shape)


def _flatten(lists: Sequence[Any], where: str) -> tuple[tuple[int, ...], list[Any]]:
    """The shape of nested lists, and what is in them, row-major.

    NumPy would do so too, but of a long string among many short ones it makes an array of long ones: of a small body,
    more than the memory holds.
    """
    shape, leaves = [len(lists)], lists if isinstance(lists, list) else [*lists]
    while leaves and (kinds := set(map(type, leaves))) & {list}:
        lengths = set(map(len, leaves)) if kinds == {list} else set()
        if len(lengths) != 1 or len(shape) == _AXES:
            raise InvalidRequest(f"{where}: the lists of its data have to be of equal lengths, {_AXES} deep at most.")
        shape.append(lengths.pop())
        leaves = [*chain.from_iterable(leaves)]
    return tuple(shape), leaves


def _cast(leaves: list[Any], datatype: str, where: str) -> npt.NDArray[Any]:
    """Numbers of JSON as the datatype that was said of them, if that loses nothing but digits."""
    dtype = DTYPES[datatype]
    if set(map(type, leaves)) <= ({bool} if dtype.kind == "b" else {int, float}):
        values = np.array(leaves)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = values.astype(dtype)
        if dtype.kind == "f" or np.array_equal(cast, values):
            return cast
    raise InvalidRequest(
        f"{where}: its data has to be {'true or false' if dtype.kind == 'b' else 'numbers'}, as {datatype} has them."
    )


def _classification(output: RequestedOutput, rows: Float32Array, labels: Sequence[str]) -> OutputTensor:
    count = min(output.classification, len(labels))
    # Stable, so that equal probabilities stand in the order of the classes.
    order = (-rows).argsort(axis=1, kind="stable")[:, :count]
    elements = [
        f"{values[index]}:{index}:{labels[index]}".encode()
        for values, places in zip(rows.tolist(), order.tolist(), strict=True)
        for index in places
    ]
    return OutputTensor(output.name, BYTES, (len(rows), count), elements)


def _pair(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = shape
    return rows, columns


def _whole(parameters: Mapping[str, object], name: str, where: str) -> int | None:
    value = parameters.get(name)
    if value is None or (type(value) is int and value >= 0):
        return value
    raise InvalidRequest(f"{where}: the parameter {name!r} has to be a whole number from 0 up.")
