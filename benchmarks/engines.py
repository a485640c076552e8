"""`python -m benchmarks.engines WORKLOAD SECONDS`: what decoding and inference take by themselves, as JSON.

Nothing is served here. Each figure is of a loop that runs for so long, in this process, on all of its cores unless
said otherwise; the best engine and batch size are what a server could at most have.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import time
from collections.abc import Callable, Sized
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import openvino as ov

from app.cores import available_cores
from app.preprocessing import UInt8Array, scale, to_array
from app.serving.candidates import candidates
from app.serving.runtimes.base import Runtime
from app.settings import Settings
from benchmarks.workloads import WORKLOADS, Workload

_BATCHES = (1, 8, 32)
_ENGINES = {"openvino": "OpenVINO", "litert": "LiteRT", "tensorflow": "TensorFlow"}
# A loop looks at the clock after so many seconds' worth of calls, or after each.
_WARM_UP = 0.1


def rate(work: Callable[[], int], seconds: float) -> float:
    """Images a second of calls that return how many images they did."""
    end = time.perf_counter() + seconds * _WARM_UP
    while time.perf_counter() < end:
        work()
    images = 0
    start = now = time.perf_counter()
    while now - start < seconds:
        images += work()
        now = time.perf_counter()
    return images / (now - start)


def decode(workload: Workload, seconds: float) -> dict[str, float]:
    """Images a second of `to_array`: in one thread, in one thread a core, and in one process a core."""
    cores = available_cores()
    with ThreadPoolExecutor(cores) as threads:
        together = sum(threads.map(lambda _: _decode_rate(workload.name, seconds), range(cores)))
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as processes:
        apart = sum(processes.map(_decode_rate, [workload.name] * cores, [seconds] * cores))
    return {
        "one thread": _decode_rate(workload.name, seconds),
        "a thread a core": together,
        "a process a core": apart,
    }


def _decode_rate(workload: str, seconds: float) -> float:
    images, spec = WORKLOADS[workload].images(), WORKLOADS[workload].manifest().preprocessing

    def all_images() -> int:
        for data in images:
            to_array(data, spec)
        return len(images)

    return rate(all_images, seconds)


def openvino(workload: Workload, seconds: float) -> dict[str, float]:
    """Images a second of OpenVINO alone, on uint8 arrays, by precision, streams and batch."""
    core = ov.Core()
    arrays = _arrays(workload)
    cores = available_cores()
    precisions = ["f32"] + (["bf16"] if "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES") else [])
    rates = {}
    for precision in precisions:
        for streams in sorted({1, cores}):
            for batch in _BATCHES:
                compiled = core.compile_model(
                    _taking_uint8(core, workload, batch),
                    "CPU",
                    {
                        "INFERENCE_PRECISION_HINT": precision,
                        "NUM_STREAMS": str(streams),
                        "INFERENCE_NUM_THREADS": cores,
                        "ENABLE_CPU_PINNING": False,
                    },
                )
                name = f"OpenVINO {precision}, {streams} stream{'s' if streams > 1 else ''}, batch {batch}"
                rates[name] = _in_flight(compiled, arrays[:batch], streams, seconds)
    return rates


def _in_flight(compiled: Any, batch: UInt8Array, streams: int, seconds: float) -> float:
    """Images a second with a call of the engine under way on each stream, and one waiting."""
    if streams == 1:
        request = compiled.create_infer_request()

        def once() -> int:
            request.infer([batch], share_inputs=True)
            return len(batch)

        return rate(once, seconds)
    queue = ov.AsyncInferQueue(compiled, streams * 2)

    def some() -> int:
        for _ in range(4 * streams):
            queue.start_async([batch], share_inputs=True)
        return 4 * streams * len(batch)

    found = rate(some, seconds)
    queue.wait_all()
    return found


def _taking_uint8(core: Any, workload: Workload, batch: int) -> Any:
    """The version's graph for one size of batch, with the scaling of pixels as a part of it."""
    manifest = workload.manifest()
    model = core.read_model(workload.version)
    model.reshape([batch, *manifest.preprocessing.shape])
    steps = ov.preprocess.PrePostProcessor(model)
    steps.input().tensor().set_element_type(ov.Type.u8)
    if manifest.preprocessing.scaling == "-1..1":
        steps.input().preprocess().convert_element_type(ov.Type.f32).mean(127.5).scale(127.5)
    return steps.build()


def product(workload: Workload, seconds: float) -> dict[str, float]:
    """Images a second of the engines as the product runs them: a lane a core, and a lone image on all threads."""
    manifest, arrays, cores = workload.manifest(), _arrays(workload), available_cores()
    rates = {}
    for precision in ("f32", "bf16"):
        settings = Settings(precision=precision, workspace=workload.folder / "workspace")
        for candidate in candidates(settings)(manifest)[0]:
            engine, _, found = candidate.name.partition("-")
            if found != precision:
                continue
            name = f"Fovea's {_ENGINES[engine]} {found}"
            runtime = candidate.load(workload.version, manifest, lanes=cores, threads=cores)
            for batch in _BATCHES:
                lanes = _in_lanes(runtime, arrays[:batch], cores, seconds)
                rates[f"{name}, {cores} lanes, batch {batch}"] = lanes
            runtime.close()
            if candidate.wide is not None:
                runtime = candidate.wide(workload.version, manifest, lanes=cores, threads=cores)
                one = partial(runtime.predict, arrays[:1], alone=True)
                rates[f"{name}, alone, batch 1"] = rate(_counting(one), seconds)
                runtime.close()
    return rates


def _counting(call: Callable[[], Sized]) -> Callable[[], int]:
    return lambda: len(call())


def _in_lanes(runtime: Runtime, batch: UInt8Array, lanes: int, seconds: float) -> float:
    """Images a second with a call under way in each lane."""

    def once() -> int:
        return len(runtime.predict(batch))

    with ThreadPoolExecutor(lanes) as pool:
        return sum(pool.map(lambda _: rate(once, seconds), range(lanes)))


def tensorflow(workload: Workload, seconds: float) -> dict[str, float]:
    """Images a second of TensorFlow's signature, on arrays that are scaled already."""
    import tensorflow as tf

    manifest = workload.manifest()
    saved_model = tf.saved_model.load(str(workload.version))
    signature = saved_model.signatures["serving_default"]
    arrays = scale(_arrays(workload), manifest.preprocessing)

    def once(batch: Any) -> int:
        signature(**{manifest.input.name: tf.constant(batch)})[manifest.output.name].numpy()
        return len(batch)

    return {f"TensorFlow f32, batch {batch}": rate(partial(once, arrays[:batch]), seconds) for batch in _BATCHES}


def _arrays(workload: Workload) -> UInt8Array:
    """As many decoded images as the largest batch has: uint8 [n, height, width, channels]."""
    spec = workload.manifest().preprocessing
    arrays = np.stack([to_array(data, spec) for data in workload.images()])
    return np.ascontiguousarray(np.resize(arrays, (max(_BATCHES), *spec.shape)))


def main(workload: str, seconds: str) -> None:
    chosen, each = WORKLOADS[workload], float(seconds)
    found = {
        "decode": decode(chosen, each),
        "engine": openvino(chosen, each) | product(chosen, each) | tensorflow(chosen, each),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
