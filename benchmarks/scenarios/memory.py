"""100,000 requests of mixed sizes: the memory stays what it is."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import wrk
from benchmarks.scenarios.driving import Trial, proportional_megabytes

_REQUESTS = 100_000
_CLIENTS = 32
_SLICE_SECONDS = 4
# Side and format; the small ones more often, so that it ends within minutes.
_SIZES = (
    *((28, "PNG"),) * 6,
    *((64, "PNG"), (96, "WEBP"), (128, "JPEG"), (200, "PNG")) * 2,
    *((320, "JPEG"), (500, "WEBP"), (640, "JPEG"), (800, "PNG"), (1600, "JPEG")),
)


def memory(trial: Trial) -> dict[str, Any]:
    files = _images(trial.workload.folder / "mixed")
    samples: list[tuple[int, float]] = []
    lost = sent = 0
    with trial.running() as subject:
        while sent < _REQUESTS * trial.scale:
            load = wrk.load(
                subject.url + subject.server.path,
                "application/octet-stream",
                files,
                connections=_CLIENTS,
                seconds=_SLICE_SECONDS,
            )
            sent += load.requests
            lost += load.refused + load.failed
            if subject.server.many_path is not None:
                sent += subject.load_many(4, 1).requests
            samples.append((sent, proportional_megabytes(subject)))
    counts = np.array([count for count, _ in samples], np.float64)
    sizes = np.array([size for _, size in samples], np.float64)
    # The first tenth fills pools and caches.
    settled = counts > counts[-1] / 10
    slope = float(np.polyfit(counts[settled], sizes[settled], 1)[0]) if settled.sum() > 2 else 0.0
    return {
        "requests": sent,
        "failed or refused": lost,
        "memory after the first tenth, MB": float(sizes[settled][0]),
        "memory at the end, MB": float(sizes[-1]),
        "memory at most, MB": float(sizes.max()),
        "growth by a straight line, MB in 100,000 requests": slope * 100_000,
        "samples": samples,
    }


def _images(folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    files = []
    for number, (side, kind) in enumerate(_SIZES):
        coarse = Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8).astype(np.uint8))
        picture = io.BytesIO()
        coarse.resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(picture, kind)
        files.append(folder / f"{number:02}")
        files[-1].write_bytes(picture.getvalue())
    return files
