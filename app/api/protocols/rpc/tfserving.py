"""TensorFlow Serving's gRPC: PredictionService.Predict and ModelService.GetModelStatus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from google.protobuf.message import DecodeError

from app.api.protocols import inference_service as service
from app.api.protocols.grpc_stubs import tensorflow_pb2 as tf
from app.api.protocols.grpc_stubs import tensorflow_serving_pb2 as pb
from app.api.protocols.inference import (
    BYTES,
    DTYPES,
    IMAGE,
    IMAGE_BYTES,
    InputTensor,
    RequestedOutput,
    read_images,
    render_outputs,
)
from app.api.protocols.inputs import InputNames
from app.api.protocols.rpc.asking import Asking
from app.api.protocols.rpc.calls import Call
from app.api.protocols.rpc.models import read
from app.api.protocols.rpc.wire import PLAIN, Shape
from app.api.protocols.tfserving import LABELS, SIGNATURE
from app.api.protocols.tfserving_models import OUTPUT, standings
from app.api.services import Services
from app.errors import InvalidRequest, VersionNotFound
from app.names import check_name
from app.serving.tensors import Image

PREDICTION, MODEL = "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"

_TENSOR = Shape({2: Shape({2: PLAIN})}, packed=frozenset({7, 10, 11, 13, 16, 17}))
_SHAPE = Shape({1: PLAIN, 2: Shape({2: _TENSOR})})
# What each type of ours is called there, and where its elements stand if they are not raw.
_TYPES = {
    tf.DT_STRING: (BYTES, "string_val"),
    tf.DT_UINT8: ("UINT8", "int_val"),
    tf.DT_FLOAT: ("FP32", "float_val"),
    tf.DT_DOUBLE: ("FP64", "double_val"),
    tf.DT_INT8: ("INT8", "int_val"),
    tf.DT_INT16: ("INT16", "int_val"),
    tf.DT_UINT16: ("UINT16", "int_val"),
    tf.DT_INT32: ("INT32", "int_val"),
    tf.DT_INT64: ("INT64", "int64_val"),
}
# Of the canonical codes, as TensorFlow numbers them.
_CODES = {"OK": 0, "UNAVAILABLE": 14}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A request, read; as `app.api.protocols.rpc.asking.Asked`."""

    model: str | None
    version: int | Literal["production"]
    images: list[Image]
    names: InputNames
    outputs: list[RequestedOutput]
    seconds: float | None = None


class TensorFlowServing:
    """The methods."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._asking = Asking(services)

    async def predict(self, call: Call) -> pb.PredictResponse:
        """Predict."""
        asked, answer = await self._asking.call(call, _SHAPE, _read)
        asked.names.check(answer.model, answer.input)
        response = pb.PredictResponse()
        response.model_spec.name, response.model_spec.signature_name = answer.model, SIGNATURE
        response.model_spec.version.value = answer.version
        for output in render_outputs(answer, asked.outputs):
            shape = tf.TensorShapeProto(dim=[tf.TensorShapeProto.Dim(size=size) for size in output.shape])
            # As float_val, as TensorFlow Serving answers: some look nowhere else.
            values = np.asarray(output.values).ravel().tolist()
            response.outputs[output.name].CopyFrom(
                tf.TensorProto(dtype=tf.DT_FLOAT, tensor_shape=shape, float_val=values)
            )
        return response

    async def status(self, call: Call) -> pb.GetModelStatusResponse:
        """GetModelStatus."""
        request = await read(call, pb.GetModelStatusRequest)
        model, version = check_name(request.model_spec.name, "model"), _version(request.model_spec)
        found = await standings(self._services, model, None if version == "production" else version)
        return pb.GetModelStatusResponse(model_version_status=[_status(entry) for entry in found])


def _status(standing: Mapping[str, Any]) -> pb.ModelVersionStatus:
    told = standing["status"]
    return pb.ModelVersionStatus(
        version=int(standing["version"]),
        state=pb.ModelVersionStatus.State.Value(standing["state"]),
        status=pb.StatusProto(error_code=_CODES[told["error_code"]], error_message=told["error_message"]),
    )


def _read(rest: bytes, _taken: list[memoryview], most: int) -> _Asked:
    try:
        request = pb.PredictRequest.FromString(rest)
    except DecodeError:
        raise InvalidRequest("The message is no PredictRequest.") from None
    spec = request.model_spec
    if spec.signature_name not in ("", SIGNATURE):
        raise InvalidRequest(f"There is no signature {spec.signature_name[:40]!r}. Allowed: {SIGNATURE}.")
    if len(request.inputs) != 1:
        raise InvalidRequest(
            f"The request has {len(request.inputs)} inputs. Allowed: one, encoded images (DT_STRING) or a preprocessed "
            "tensor."
        )
    [(name, tensor)] = request.inputs.items()
    names = InputNames()
    names.note(name, encoded=tensor.dtype == tf.DT_STRING)
    return _Asked(
        check_name(spec.name, "model") if spec.name else None,
        _version(spec),
        read_images([_input(name, tensor)], most=most),
        names,
        [RequestedOutput(output) for output in request.output_filter] or [RequestedOutput(OUTPUT)],
    )


def _version(spec: pb.ModelSpec) -> int | Literal["production"]:
    if spec.WhichOneof("version_choice") == "version_label" and spec.version_label not in LABELS:
        raise VersionNotFound(f"There is no version label {spec.version_label[:40]!r}. Allowed: {', '.join(LABELS)}.")
    return service.parse_version(str(spec.version.value)) if spec.HasField("version") else "production"


def _input(name: str, tensor: tf.TensorProto) -> InputTensor:
    where = f"Input {name[:40]!r}"
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if (found := _TYPES.get(tensor.dtype)) is None:
        allowed = ", ".join(tf.DataType.Name(dtype) for dtype in _TYPES)
        raise InvalidRequest(f"{where} has a dtype that is not supported. Allowed: {allowed}.")
    datatype, place = found
    numbers = getattr(tensor, place)
    if datatype == BYTES:
        # A lone image may come as a scalar.
        return InputTensor(IMAGE_BYTES, BYTES, shape or [1], values=list(numbers))
    if tensor.tensor_content:
        return InputTensor(IMAGE, datatype, shape, raw=tensor.tensor_content)
    try:
        array = np.fromiter(numbers, DTYPES[datatype], len(numbers))
    except (OverflowError, ValueError):
        raise InvalidRequest(f"{where}: its {place} have to be numbers that {datatype} can hold.") from None
    return InputTensor(IMAGE, datatype, shape, raw=array.view(np.uint8).data)
