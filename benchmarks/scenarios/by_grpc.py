"""gRPC beside our own route, each by the plainest client that Python has for it, since wrk speaks no gRPC."""

from __future__ import annotations

import http.client
import itertools
import time
from collections.abc import Callable, Sequence
from statistics import median

import grpc

from app.api.protocols.grpc_stubs import inference_pb2
from benchmarks.running import Running

_INFER = "/inference.GRPCInferenceService/ModelInfer"

Ask = Callable[[bytes], object]


def ratio(subject: Running, port: int, *, rounds: int, seconds: float) -> float:
    """How many times our own route's time an encoded image takes by gRPC: the median of rounds in turns."""
    images = subject.workload.images()
    messages = [_message(subject.workload.name, image) for image in images]
    connection = http.client.HTTPConnection("127.0.0.1", subject.port, timeout=30)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        # Bytes in, bytes out: what a client makes of them is not the server's time.
        infer = channel.unary_unary(_INFER, request_serializer=None, response_deserializer=None)

        def own(image: bytes) -> None:
            connection.request("POST", subject.server.path, image, {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            body = response.read()
            if response.status != 200:
                raise RuntimeError(f"status {response.status}: {body[:300]!r}")

        ratios = []
        for warm in (True, *[False] * rounds):
            alone = _seconds_each(own, images, 1.0 if warm else seconds)
            by_grpc = _seconds_each(infer, messages, 1.0 if warm else seconds)
            if not warm:
                ratios.append(by_grpc / alone)
    connection.close()
    return median(ratios)


def _message(model: str, image: bytes) -> bytes:
    request = inference_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="image_bytes", datatype="BYTES", shape=[1])
    tensor.contents.bytes_contents.append(image)
    return bytes(request.SerializeToString())


def _seconds_each(ask: Ask, bodies: Sequence[bytes], seconds: float) -> float:
    begun = time.perf_counter()
    for asked, body in enumerate(itertools.cycle(bodies), start=1):
        ask(body)
        if (spent := time.perf_counter() - begun) > seconds:
            return spent / asked
    raise AssertionError("a cycle has no end")
