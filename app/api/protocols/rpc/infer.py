"""The Open Inference Protocol's ModelInfer and ModelStreamInfer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError

from app.api.protocols.grpc_stubs import inference_pb2 as pb
from app.api.protocols.inference import (
    BYTES,
    DTYPES,
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
from app.api.protocols.rpc.asking import Asking
from app.api.protocols.rpc.calls import Call, Calls, Fault
from app.api.protocols.rpc.wire import PLAIN, Shape, take_apart
from app.api.services import Services
from app.errors import InvalidRequest, NotReady
from app.names import check_name
from app.serving.classifier import Answer
from app.serving.tensors import Image

# Requests of one stream that are under way at a time; the client has to wait with more.
_AHEAD = 64
_SHORT = 1024 * 1024
_PARAMETERS = Shape({2: PLAIN})
_CONTENTS = Shape({}, packed=frozenset({1, 2, 3, 4, 5}))
_SHAPE = Shape(
    {
        4: _PARAMETERS,
        5: Shape({4: _PARAMETERS, 5: _CONTENTS}, packed=frozenset({3})),
        6: Shape({2: _PARAMETERS}),
    },
    taken=7,
)
# Where the elements of a datatype stand that are not raw. FP16 has no place.
_CONTENTS_OF = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
_ALL_CONTENTS = (*dict.fromkeys(_CONTENTS_OF.values()), "bytes_contents")


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, read; as `app.api.protocols.rpc.asking.Asked`."""

    model: str | None
    version: int | Literal["production"]
    id: str
    seconds: float | None
    images: list[Image]
    names: InputNames
    outputs: list[RequestedOutput]


class Infer:
    """Both methods. Belongs to one event loop."""

    def __init__(self, services: Services, calls: Calls) -> None:
        self._asking = Asking(services)
        self._calls = calls

    async def infer(self, call: Call) -> pb.ModelInferResponse:
        """ModelInfer."""
        asked, answer = await self._asking.call(call, _SHAPE, _read)
        return _render(answer, asked)

    async def stream(self, stream: Call, context: Any) -> None:
        """ModelStreamInfer: requests are worked on beside each other, and answered in the order in which they came."""
        under_way: asyncio.Queue[asyncio.Task[pb.ModelStreamInferResponse] | None] = asyncio.Queue(_AHEAD)
        async with asyncio.TaskGroup() as group:

            async def read() -> None:
                while (message := await self._calls.next_message(context)) is not None:
                    await under_way.put(group.create_task(self._one(stream, context, message)))
                await under_way.put(None)

            group.create_task(read())
            while (task := await under_way.get()) is not None:
                await context.write((await task).SerializeToString())
        if self._calls.ending.is_set():
            raise NotReady("The service is shutting down; open another stream.")

    async def _one(self, stream: Call, context: Any, message: bytes) -> pb.ModelStreamInferResponse:
        """The answer to one request of a stream."""

        async def answer(call: Call) -> pb.ModelInferResponse:
            asked, answer = await self._asking.message(call, message, _SHAPE, _read)
            return _render(answer, asked)

        try:
            reply = await self._calls.one_of_stream(stream, context, answer)
        except Fault as fault:
            # The id says which it was.
            failed = pb.ModelInferResponse(id=_id(message))
            return pb.ModelStreamInferResponse(error_message=str(fault), infer_response=failed)
        return pb.ModelStreamInferResponse(infer_response=reply)


def _read(rest: bytes, raw: list[memoryview], most: int) -> _Asked:
    request = _parse(rest)
    parameters = _parameters(request.parameters)
    refuse_unsupported(parameters, "The request")
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(f"The request has {len(request.inputs)} inputs, and {len(raw)} raw_input_contents.")
    inputs = [_input(tensor, raw[index] if raw else None) for index, tensor in enumerate(request.inputs[:2])]
    if len(request.inputs) > len(inputs):
        raise InvalidRequest(f"The request has {len(request.inputs)} inputs. Allowed: one.")
    model = check_name(request.model_name, "model") if request.model_name else None
    version = parse_version(request.model_version)
    images, names = read_images(inputs, most=most), InputNames()
    names.note(inputs[0].name, encoded=inputs[0].datatype == BYTES)
    return _Asked(
        model,
        version,
        request.id,
        timeout_of(parameters),
        images,
        names,
        [_output(output) for output in request.outputs],
    )


def _parse(rest: bytes) -> pb.ModelInferRequest:
    request = pb.ModelInferRequest()
    try:
        request.MergeFromString(rest)
    except DecodeError:
        raise InvalidRequest("The message is no ModelInferRequest.") from None
    return request


def _id(message: bytes) -> str:
    """Id of a request in which something is wrong, as far as it can be read."""
    try:
        parts = take_apart(message, _SHAPE)
        # The id of one that is long in parsing is not worth it.
        return _parse(parts.rest).id if parts.memory - len(message) < _SHORT else ""
    except InvalidRequest:
        return ""


def _input(tensor: pb.ModelInferRequest.InferInputTensor, raw: memoryview | None) -> InputTensor:
    where = f"Input {tensor.name[:40]!r}"
    refuse_unsupported(_parameters(tensor.parameters), where)
    given = [name for name in _ALL_CONTENTS if len(getattr(tensor.contents, name))]
    if raw is not None:
        if given:
            raise InvalidRequest(f"{where} has {given[0]}, and there are raw_input_contents. Allowed: one of the two.")
        return InputTensor(tensor.name, tensor.datatype, list(tensor.shape), raw=raw)
    place = "bytes_contents" if tensor.datatype == BYTES else _CONTENTS_OF.get(tensor.datatype)
    if any(name != place for name in given):
        raise InvalidRequest(
            f"{where} is {tensor.datatype[:40]!r}, and has {given[0]}. Allowed: raw_input_contents, or "
            f"{place or 'a datatype that has contents'}."
        )
    if place is None or tensor.datatype == BYTES:
        return InputTensor(
            tensor.name, tensor.datatype, list(tensor.shape), values=list(tensor.contents.bytes_contents)
        )
    numbers = getattr(tensor.contents, place)
    try:
        array = np.fromiter(numbers, DTYPES[tensor.datatype], len(numbers))
    except (OverflowError, ValueError):
        raise InvalidRequest(f"{where}: its {place} have to be numbers that {tensor.datatype} can hold.") from None
    return InputTensor(tensor.name, tensor.datatype, list(tensor.shape), raw=array.view(np.uint8).data)


def _output(output: pb.ModelInferRequest.InferRequestedOutputTensor) -> RequestedOutput:
    where = f"Output {output.name[:40]!r}"
    parameters = _parameters(output.parameters)
    refuse_unsupported(parameters, where)
    return RequestedOutput(output.name, classification_of(parameters, where))


def _parameters(given: Mapping[str, pb.InferParameter]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for name, value in given.items():
        choice = value.WhichOneof("parameter_choice")
        parameters[name] = None if choice is None else getattr(value, choice)
    return parameters


def _render(answer: Answer, asked: _Asked) -> pb.ModelInferResponse:
    asked.names.check(answer.model, answer.input)
    outputs = render_outputs(answer, asked.outputs)
    return pb.ModelInferResponse(
        model_name=answer.model,
        model_version=str(answer.version),
        id=asked.id,
        outputs=[_described(output) for output in outputs],
        raw_output_contents=[output.raw() for output in outputs],
    )


def _described(output: OutputTensor) -> pb.ModelInferResponse.InferOutputTensor:
    return pb.ModelInferResponse.InferOutputTensor(name=output.name, datatype=output.datatype, shape=output.shape)
