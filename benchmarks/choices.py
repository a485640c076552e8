"""`python -m benchmarks.choices`: what the smaller choices in the service gave, each beside what was not chosen.

Each pair is timed in turns, in this process, and the shortest times are compared: what else the machine does can only
lengthen them. `docs/performance.md` has the figures and what was made of them.
"""

from __future__ import annotations

import gc
import hashlib
import io
import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import openvino as ov
import orjson
from PIL import Image

from app.cores import available_cores
from app.preprocessing import Preprocessing, UInt8Array, scale, to_array
from benchmarks.workloads import WORKLOADS, Workload

_ROUNDS = 7
_CALL_SECONDS = 0.05

Ways = Mapping[str, Callable[[], object]]


@dataclass(frozen=True)
class Choice:
    """Several ways to do the same, and the seconds of each."""

    subject: str
    seconds: Mapping[str, float]


def timed(subject: str, ways: Ways) -> Choice:
    """Time all ways in turns; the shortest time of each counts."""
    shortest = dict.fromkeys(ways, float("inf"))
    for _ in range(_ROUNDS):
        for name, way in ways.items():
            shortest[name] = min(shortest[name], _seconds(way))
    return Choice(subject, shortest)


def _seconds(way: Callable[[], object]) -> float:
    way()
    calls, begin = 0, time.perf_counter()
    while (now := time.perf_counter()) - begin < _CALL_SECONDS or calls == 0:
        way()
        calls += 1
    return (now - begin) / max(calls, 1)


def rendering() -> Iterator[Choice]:
    """The answer to one image as JSON."""
    top = [{"label": f"label {i}", "class_index": i, "probability": float(np.float32(1 / (i + 2)))} for i in range(5)]
    prediction = {"name": "image", "label": "label 0", "probability": 0.5, "top": top}
    answer = {"model": "tiny", "version": 1, "id": "0" * 16, "predictions": [prediction]}

    def by_hand() -> bytes:
        listed = ",".join(
            f'{{"label":{json.dumps(entry["label"])},"class_index":{entry["class_index"]},'
            f'"probability":{entry["probability"]!r}}}'
            for entry in top
        )
        return (
            f'{{"model":"tiny","version":1,"id":"{"0" * 16}","predictions":[{{"name":"image","label":"label 0",'
            f'"probability":0.5,"top":[{listed}]}}]}}'
        ).encode()

    assert json.loads(by_hand()) == answer
    yield timed(
        "rendering an answer",
        {"orjson": lambda: orjson.dumps(answer), "json": lambda: json.dumps(answer).encode(), "by hand": by_hand},
    )
    row = np.random.default_rng(0).dirichlet(np.ones(3)).astype(np.float32)
    yield timed(
        "the order of 3 classes",
        {
            "sorted": lambda: sorted(range(3), key=row.tolist().__getitem__, reverse=True),
            "NumPy's argsort": lambda: np.argsort(-row, kind="stable").tolist(),
        },
    )


def decoding(workload: Workload) -> Iterator[Choice]:
    """Encoded bytes to an array."""
    images, spec = workload.images(), workload.manifest().preprocessing
    cores = available_cores()

    def together(pool: Executor) -> object:
        return list(pool.map(partial(_decode, spec), [images] * cores))

    with ThreadPoolExecutor(cores) as threads, ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as own:
        yield timed(
            f"decoding {len(images)} {workload.name} images on each of {cores} cores",
            {
                "one thread, one core's share": lambda: _decode(spec, images),
                "threads": lambda: together(threads),
                "processes": lambda: together(own),
            },
        )


def _decode(spec: Preprocessing, images: list[bytes]) -> None:
    for data in images:
        to_array(data, spec)


def jpeg(workload: Workload) -> Iterator[Choice]:
    """A photo to an array of the model's size: the function that is used, without its reduced scale, and another."""
    data, spec = workload.images()[0], workload.manifest().preprocessing
    size = (spec.width, spec.height)

    def full_scale() -> UInt8Array:
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB").resize(size, Image.Resampling.BILINEAR))

    ways: dict[str, Callable[[], object]] = {
        "Pillow with draft": lambda: to_array(data, spec),
        "Pillow at full scale": full_scale,
    }
    subject = "decoding a photo"
    if find_spec("simplejpeg") is not None:
        simplejpeg: Any = import_module("simplejpeg")

        def turbo() -> UInt8Array:
            decoded = simplejpeg.decode_jpeg(data, min_height=2 * spec.height, min_width=2 * spec.width)
            return np.asarray(Image.fromarray(decoded).resize(size, Image.Resampling.BILINEAR))

        ways["TurboJPEG (simplejpeg), then Pillow"] = turbo
        apart = int(np.abs(turbo().astype(np.int16) - to_array(data, spec)).max())
        subject += f" (TurboJPEG's pixels differ by up to {apart})"
    yield timed(subject, ways)


def png(workload: Workload) -> Iterator[Choice]:
    """A small PNG to an array: its container read by hand, or by Pillow."""
    data, spec = workload.images()[0], workload.manifest().preprocessing
    # What has a byte behind its end is not plain, and goes Pillow's way to the same pixels.
    odd = data + b"\0"
    assert np.array_equal(to_array(data, spec), to_array(odd, spec))
    yield timed(
        f"decoding a {workload.name} image",
        {"the container by hand": lambda: to_array(data, spec), "all by Pillow": lambda: to_array(odd, spec)},
    )


def engine(workload: Workload) -> Iterator[Choice]:
    """How the engine is fed: dtype, sizes of batches."""
    manifest = workload.manifest()
    shape = manifest.preprocessing.shape
    batch = np.random.default_rng(0).integers(0, 255, (8, *shape), np.uint8)
    floats = batch.astype(np.float32)
    yield timed(
        f"getting 8 {workload.name} images ready",
        {
            "as they are, uint8": lambda: batch.copy(),
            "to float32 in [-1, 1]": lambda: scale(
                batch, manifest.preprocessing.model_copy(update={"scaling": "-1..1"})
            ),
        },
    )
    core = ov.Core()
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}

    def request(size: int) -> Any:
        model = core.read_model(workload.version)
        model.reshape([size, *shape])
        return core.compile_model(model, "CPU", properties).create_infer_request()

    def compute(using: Any, count: int, padded: int) -> object:
        values = batch if using.model_inputs[0].get_element_type() == ov.Type.u8 else floats
        rows = np.zeros((padded, *shape), values.dtype) if padded > count else values[:count]
        if padded > count:
            rows[:count] = values[:count]
        return using.infer([rows], share_inputs=True)

    dynamic, fixed = request(-1), request(8)
    for count in (3, 8):
        yield timed(
            f"inference of {count} {workload.name} images",
            {
                "dynamic batch": partial(compute, dynamic, count, count),
                "padded to 8": partial(compute, fixed, count, 8),
            },
        )


def caching(workload: Workload) -> Iterator[Choice]:
    """What a cache of answers, keyed by the picture, would cost each request."""
    data = workload.images()[0]
    yield timed(
        f"the key of a {workload.name} image ({len(data):,} bytes) in a cache of answers",
        {"SHA-256": lambda: hashlib.sha256(data).digest(), "BLAKE2b": lambda: hashlib.blake2b(data).digest()},
    )


def garbage() -> Iterator[Choice]:
    """Python's collector of cycles, with as many objects around as a service has."""
    around = [{"number": number} for number in range(200_000)]

    def work() -> list[list[int]]:
        return [[number] for number in range(2_000)]

    def with_threshold(threshold: int, freeze: bool) -> object:
        gc.set_threshold(threshold, 20, 20)
        if freeze:
            gc.freeze()
        try:
            return work()
        finally:
            if freeze:
                gc.unfreeze()

    thresholds = gc.get_threshold()
    yield timed(
        f"making 2,000 lists beside {len(around):,} objects",
        {
            "Python's settings": partial(with_threshold, thresholds[0], False),
            "threshold 20,000, the rest frozen": partial(with_threshold, 20_000, True),
        },
    )
    gc.set_threshold(*thresholds)


def main() -> None:
    """Time all, and print a Markdown table."""
    print("| choice | seconds, shortest of several rounds |\n|---|---|")
    for choices in (
        rendering(),
        *(decoding(workload) for workload in WORKLOADS.values()),
        jpeg(WORKLOADS["photo"]),
        png(WORKLOADS["tiny"]),
        *(engine(workload) for workload in WORKLOADS.values()),
        *(caching(workload) for workload in WORKLOADS.values()),
        garbage(),
    ):
        for choice in choices:
            times = "; ".join(f"{name} {_readable(seconds)}" for name, seconds in choice.seconds.items())
            print(f"| {choice.subject} | {times} |", flush=True)


def _readable(seconds: float) -> str:
    return f"{seconds * 1e6:.3g} µs" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


if __name__ == "__main__":
    for workload in WORKLOADS.values():
        workload.prepare()
    main()
