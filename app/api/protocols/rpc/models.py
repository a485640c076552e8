"""The Open Inference Protocol's other methods: health, metadata, the model repository, statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from google.protobuf.message import DecodeError, Message

from app.api.protocols import inference_service as service
from app.api.protocols.grpc_stubs import inference_pb2 as pb
from app.api.protocols.rpc.calls import Call
from app.api.services import Services
from app.errors import InvalidName, InvalidRequest, NotFound, PayloadTooLarge
from app.metrics import Work

_Message = TypeVar("_Message", bound=Message)

# None of these messages says much.
_MESSAGE_BYTES = 16 * 1024


class Models:
    """The methods."""

    def __init__(self, services: Services) -> None:
        self._services = services

    async def live(self, call: Call) -> pb.ServerLiveResponse:
        """ServerLive."""
        await read(call, pb.ServerLiveRequest)
        return pb.ServerLiveResponse(live=True)

    async def ready(self, call: Call) -> pb.ServerReadyResponse:
        """ServerReady."""
        await read(call, pb.ServerReadyRequest)
        return pb.ServerReadyResponse(ready=service.server_ready(self._services))

    async def model_ready(self, call: Call) -> pb.ModelReadyResponse:
        """ModelReady."""
        request = await read(call, pb.ModelReadyRequest)
        version = service.parse_version(request.version)
        try:
            reason = await service.model_ready(self._services, request.name, version)
        except (InvalidName, NotFound) as error:
            # By gRPC the question has an answer for what there is not, as Triton gives it.
            reason = str(error)
        return pb.ModelReadyResponse(ready=reason is None)

    async def server(self, call: Call) -> pb.ServerMetadataResponse:
        """ServerMetadata."""
        await read(call, pb.ServerMetadataRequest)
        # Binary tensors are an extension of HTTP's JSON.
        extensions = [name for name in service.EXTENSIONS if name != "binary_tensor_data"]
        return pb.ServerMetadataResponse(name=service.NAME, version=service.VERSION, extensions=extensions)

    async def metadata(self, call: Call) -> pb.ModelMetadataResponse:
        """ModelMetadata."""
        request = await read(call, pb.ModelMetadataRequest)
        found = await service.metadata(self._services, request.name, service.parse_version(request.version))
        tensor = pb.ModelMetadataResponse.TensorMetadata
        return pb.ModelMetadataResponse(
            name=found.name,
            versions=found.versions,
            platform=found.platform,
            inputs=[tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in found.inputs],
            outputs=[tensor(name=each.name, datatype=each.datatype, shape=each.shape) for each in found.outputs],
        )

    async def config(self, call: Call) -> pb.ModelConfigResponse:
        """ModelConfig: what Triton's clients ask it for, which is how many images a request may hold, and tensors."""
        request = await read(call, pb.ModelConfigRequest)
        found = await service.config(self._services, request.name, service.parse_version(request.version))
        return pb.ModelConfigResponse(
            config=pb.ModelConfig(
                name=found.name,
                platform=found.platform,
                max_batch_size=found.max_batch_size,
                input=[
                    pb.ModelInput(name=each.name, data_type=pb.DataType.Value(each.data_type), dims=each.dims)
                    for each in found.input
                ],
                output=[
                    pb.ModelOutput(name=each.name, data_type=pb.DataType.Value(each.data_type), dims=each.dims)
                    for each in found.output
                ],
            )
        )

    async def statistics(self, call: Call) -> pb.ModelStatisticsResponse:
        """ModelStatistics."""
        request = await read(call, pb.ModelStatisticsRequest)
        version = service.parse_version(request.version)
        found = await service.statistics(self._services, request.name or None, version)
        return pb.ModelStatisticsResponse(model_stats=[_statistics(*entry) for entry in found])

    async def index(self, call: Call) -> pb.RepositoryIndexResponse:
        """RepositoryIndex."""
        request = await read(call, pb.RepositoryIndexRequest)
        entries = await service.index(self._services, ready=request.ready)
        entry = pb.RepositoryIndexResponse.ModelIndex
        return pb.RepositoryIndexResponse(
            models=[
                entry(name=each.name, version=each.version, state=each.state, reason=each.reason) for each in entries
            ]
        )

    async def load(self, call: Call) -> pb.RepositoryModelLoadResponse:
        """RepositoryModelLoad."""
        request = await read(call, pb.RepositoryModelLoadRequest)
        await service.load(self._services, request.model_name, _named_version(request.parameters))
        return pb.RepositoryModelLoadResponse()

    async def unload(self, call: Call) -> pb.RepositoryModelUnloadResponse:
        """RepositoryModelUnload."""
        request = await read(call, pb.RepositoryModelUnloadRequest)
        version = _named_version(request.parameters, "unload_dependents")
        await service.unload(self._services, request.model_name, version)
        return pb.RepositoryModelUnloadResponse()


async def read(call: Call, kind: Callable[..., _Message]) -> _Message:
    """The small message of a call.

    Raises:
        RequestTimeout, DeadlineExceeded, InvalidRequest: as of `Call.read`; or it is another.
        PayloadTooLarge.
    """
    message = await call.read(call.deadline(), little=True)
    name: str = kind.DESCRIPTOR.name  # type: ignore[attr-defined]  # the class of a message
    if len(message) > _MESSAGE_BYTES:
        raise PayloadTooLarge(f"The {name} has {len(message)} bytes; at most {_MESSAGE_BYTES} are allowed.")
    request = kind()
    try:
        request.MergeFromString(message)
    except DecodeError:
        raise InvalidRequest(f"The message is no {name}.") from None
    return request


def _named_version(parameters: Mapping[str, pb.ModelRepositoryParameter], *ignored: str) -> int | Literal["production"]:
    """The parameter `version` of a request to load or unload; parameters of others are refused."""
    if unknown := sorted(set(parameters) - {"version", *ignored}):
        raise InvalidRequest(
            f"The parameter {unknown[0][:40]!r} is not supported: how a version is loaded, its manifest says. Allowed: "
            "version."
        )
    if "version" not in parameters:
        return "production"
    value: Any = parameters["version"]
    choice = value.WhichOneof("parameter_choice")
    if choice not in ("string_param", "int64_param"):
        raise InvalidRequest("The parameter 'version' has to be a version's number.")
    return service.parse_version(str(getattr(value, choice)))


def _statistics(name: str, version: int, work: Work) -> pb.ModelStatistics:
    unmeasured = pb.StatisticDuration()
    return pb.ModelStatistics(
        name=name,
        version=str(version),
        inference_count=work.images,
        execution_count=work.batches,
        inference_stats=pb.InferStatistics(
            success=pb.StatisticDuration(count=work.images),
            fail=unmeasured,
            queue=unmeasured,
            compute_input=unmeasured,
            compute_infer=pb.StatisticDuration(count=work.batches, ns=round(work.seconds * 1e9)),
            compute_output=unmeasured,
            cache_hit=unmeasured,
            cache_miss=unmeasured,
        ),
    )
