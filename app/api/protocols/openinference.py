"""The Open Inference Protocol, version 2, by HTTP: `/v2/models/.../infer`, in JSON and with binary tensors."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import orjson

from app.api.protocols.encoded import check_head, from_base64, parse_object, weight
from app.api.protocols.failures import ErrorText
from app.api.protocols.inference import (
    BYTES,
    InputTensor,
    OutputTensor,
    RequestedOutput,
    classification_of,
    read_images,
    refuse_unsupported,
    render_outputs,
    timeout_of,
)
from app.api.protocols.inference_service import parse_version
from app.api.protocols.inputs import InputNames
from app.api.ways import Head, Reply, Way
from app.errors import InvalidRequest
from app.names import check_name
from app.serving.classifier import Answer
from app.serving.tensors import Image

HEADER_LENGTH = "inference-header-content-length"
"""Bytes of JSON at the beginning of the body; the tensors follow. 0: the body is one encoded image."""

_AS_BODY = (
    "Send the header Inference-Header-Content-Length: 0 with a bare image, or the bytes of JSON with binary tensors "
    "behind it; or images in JSON, in base64."
)
_JSON_FIRST = "Inference-Header-Content-Length says that JSON comes first; with 0 the body is one encoded image."

_NUMBER = re.compile(r"[0-9]{1,12}")
_OCTETS = b"application/octet-stream"


class Infer:
    """A request to `/infer`; as `app.api.ways.Inquiry`."""

    __slots__ = ("_binary", "_id", "_json_bytes", "_most", "_names", "_outputs", "model", "seconds", "version")

    def __init__(self, head: Head) -> None:
        self.model = check_name(head.path["model"], "model")
        self.version = parse_version(head.path.get("version"))
        self.seconds: float | None = None
        """Within which the body asks for the answer."""
        self._json_bytes = _json_bytes(head)
        self._most = head.most
        self._names = InputNames()
        self._id: str | None = None
        self._binary = self._json_bytes == 0
        """Whether outputs are binary that do not say otherwise."""
        self._outputs: list[tuple[RequestedOutput, bool | None]] = []
        """Those requested, and whether each is to be binary, if it says so."""
        check_head(head.headers)

    def images(self, body: bytes) -> Sequence[Image]:
        if self._json_bytes == 0:
            if not body:
                raise InvalidRequest("The body is empty; it has to be an encoded image.")
            return [body]
        rest = memoryview(b"")
        if self._json_bytes is not None:
            if self._json_bytes > len(body):
                raise InvalidRequest(
                    f"Inference-Header-Content-Length is {self._json_bytes}, and the body has {len(body)} bytes."
                )
            rest, body = memoryview(body)[self._json_bytes :], body[: self._json_bytes]
        document = parse_object(body, _AS_BODY if self._json_bytes is None else _JSON_FIRST)
        parameters = _parameters(document, "The request")
        self.seconds = timeout_of(parameters)
        self._id = _id(document)
        self._binary = _flag(parameters, "binary_data_output", "The request") or False
        self._outputs = [_output(value, index) for index, value in enumerate(_list(document, "outputs"))]
        tensors = []
        for index, value in enumerate(_list(document, "inputs")):
            tensor, rest = self._input(value, index, rest)
            tensors.append(tensor)
        if len(rest):
            raise InvalidRequest(f"The body has {len(rest)} bytes more than JSON and its inputs' binary_data_size.")
        images = read_images(tensors, most=self._most)
        self._names.note(tensors[0].name, encoded=tensors[0].datatype == BYTES)
        return images

    def render(self, answer: Answer, request_id: str) -> Reply:
        self._names.check(answer.model, answer.input)
        outputs = render_outputs(answer, [output for output, _ in self._outputs])
        binary = [flag for _, flag in self._outputs] or [None]
        described, tensors = [], []
        for output, flag in zip(outputs, binary, strict=True):
            document: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
            if self._binary if flag is None else flag:
                tensors.append(output.raw())
                document["parameters"] = {"binary_data_size": len(tensors[-1])}
            else:
                document["data"] = _data(output)
            described.append(document)
        whole: dict[str, Any] = {"model_name": answer.model, "model_version": str(answer.version)}
        if self._id is not None:
            whole["id"] = self._id
        whole["outputs"] = described
        head = orjson.dumps(whole)
        if not tensors:
            return Reply(head)
        length = (HEADER_LENGTH.encode(), b"%d" % len(head))
        return Reply(b"".join((head, *tensors)), _OCTETS, (length,))

    def _input(self, value: Any, index: int, rest: memoryview) -> tuple[InputTensor, memoryview]:
        """An input, and what is left of the tensors behind the JSON."""
        where = f"inputs[{index}]"
        name = _field(value, "name", str, where)
        datatype = _field(value, "datatype", str, where)
        shape = _field(value, "shape", list, where)
        size = _parameters(value, where).get("binary_data_size")
        data = value.get("data")
        if size is None:
            if not isinstance(data, list):
                raise InvalidRequest(f'{where}: "data" has to be a list, or "binary_data_size" say that it is binary.')
            if datatype == BYTES:
                # One more than allowed: that there are too many is found where they are counted.
                data = [*islice(_decoded(data, where), self._most + 1)]
            return InputTensor(name, datatype, shape, values=data), rest
        if data is not None:
            raise InvalidRequest(f'{where} has both "data" and "binary_data_size".')
        if self._json_bytes is None:
            raise InvalidRequest(f"{where} is binary: the header Inference-Header-Content-Length is needed.")
        if type(size) is not int or not 0 <= size <= len(rest):
            raise InvalidRequest(
                f'{where}: "binary_data_size" has to be a number of bytes; {len(rest)} of the body are left for it.'
            )
        return InputTensor(name, datatype, shape, raw=rest[:size]), rest[size:]


def ways() -> list[Way]:
    """The routes that answer images."""
    failures = ErrorText()
    return [
        Way(f"/v2/models/{{model}}{place}/infer", Infer, failures, weight=_weight, patience=_patience)
        for place in ("", "/versions/{version}")
    ]


def _json_bytes(head: Head) -> int | None:
    """Value of the header that says how much of the body is JSON; None: all of it."""
    text = head.headers.get(HEADER_LENGTH)
    if text is None:
        return None
    if _NUMBER.fullmatch(text) is None:
        raise InvalidRequest(
            f"Inference-Header-Content-Length: {text[:40]!r} is not allowed. Allowed: the number of bytes of JSON that "
            "the body begins with; 0 where it is one encoded image."
        )
    return int(text)


def _weight(head: Head, body: bytes) -> int:
    length = _json_bytes(head)
    if length is None:
        return weight(body)
    # What follows the JSON is not parsed, but encoded images are copied.
    return weight(body, min(length, len(body))) + len(body) if length else 0


def _patience(inquiry: Infer) -> float | None:
    return inquiry.seconds


def _id(document: dict[str, Any]) -> str | None:
    value = document.get("id")
    if value is not None and not isinstance(value, str):
        raise InvalidRequest('"id" has to be a string.')
    return value


def _list(document: dict[str, Any], name: str) -> list[Any]:
    value = document.get(name)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f'"{name}" has to be a list.')
    return value


def _output(value: Any, index: int) -> tuple[RequestedOutput, bool | None]:
    """A requested output, and whether it is to be binary, if it says so."""
    where = f"outputs[{index}]"
    name = _field(value, "name", str, where)
    parameters = _parameters(value, where)
    return RequestedOutput(name, classification_of(parameters, where)), _flag(parameters, "binary_data", where)


def _decoded(data: list[Any], where: str) -> Iterator[bytes]:
    """The bytes of BYTES in JSON: strings of base64, flat or in lists."""
    elements = (element for row in data for element in (row if isinstance(row, list) else (row,)))
    for index, element in enumerate(elements):
        if not isinstance(element, str):
            raise InvalidRequest(f"{where}: the data of BYTES has to be strings: encoded images as base64.")
        yield from_base64(element, f"{where}: the encoded image at index {index}")


def _parameters(value: dict[str, Any], where: str) -> dict[str, Any]:
    parameters = value.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise InvalidRequest(f'{where}: "parameters" has to be an object.')
    refuse_unsupported(parameters, where)
    return parameters


def _flag(parameters: dict[str, Any], name: str, where: str) -> bool | None:
    value = parameters.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{where}: the parameter {name!r} has to be true or false.")
    return value


def _field(value: Any, name: str, kind: type, where: str) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get(name), kind):
        raise InvalidRequest(f'{where} has to be an object with "{name}", {"a list" if kind is list else "a string"}.')
    return value[name]


def _data(output: OutputTensor) -> list[Any]:
    if isinstance(output.values, list):
        return [value.decode() for value in output.values]
    data: list[Any] = output.values.ravel().tolist()
    return data
