"""How often a running server is right about a labelled folder, asked over HTTP.

    python -m benchmarks.accuracy FOLDER [--server http://127.0.0.1:8000] [--model MODEL] [--version N]

FOLDER has one sub-folder a class, named as the model's labels.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

_IMAGES_IN_A_REQUEST = 32
_CONNECTIONS = 4


def images(folder: Path) -> list[tuple[str, Path]]:
    """(label, file) of every file one level down."""
    return [
        (label.name, file) for label in sorted(folder.iterdir()) if label.is_dir() for file in sorted(label.iterdir())
    ]


def ask(client: httpx.Client, files: list[Path], parameters: dict[str, str]) -> list[str]:
    """The label given to each file; "" for a file that was no image."""
    parts = [("images", (str(number), file.read_bytes())) for number, file in enumerate(files)]
    response = client.post("/api/v1/predict", params=parameters, files=parts)
    # A single bad image is a problem document.
    if response.status_code != 200 and len(files) > 1:
        raise SystemExit(f"{response.status_code}: {response.text}")
    return [prediction.get("label", "") for prediction in response.json().get("predictions", [{}])]


def batches(items: list[tuple[str, Path]]) -> Iterator[list[tuple[str, Path]]]:
    return (items[start : start + _IMAGES_IN_A_REQUEST] for start in range(0, len(items), _IMAGES_IN_A_REQUEST))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--server", default="http://127.0.0.1:8000")
    parser.add_argument("--model")
    parser.add_argument("--version")
    arguments = parser.parse_args()
    chosen = {"model": arguments.model, "version": arguments.version, "top_k": "1"}
    parameters = {name: value for name, value in chosen.items() if value is not None}
    items = images(arguments.folder)
    right: Counter[str] = Counter()
    started = time.perf_counter()
    with httpx.Client(base_url=arguments.server, timeout=60) as client, ThreadPoolExecutor(_CONNECTIONS) as pool:
        work = list(batches(items))
        answers = pool.map(lambda batch: ask(client, [file for _, file in batch], parameters), work)
        for batch, labels in zip(work, answers, strict=True):
            right.update(label for (label, _), answer in zip(batch, labels, strict=True) if label == answer)
    seconds = time.perf_counter() - started
    totals = Counter(label for label, _ in items)
    for label, total in totals.items():
        print(f"{label:20} {right[label]:6,} of {total:6,}  {right[label] / total:7.2%}")
    print(f"{'all':20} {right.total():6,} of {len(items):6,}  {right.total() / len(items):7.2%}")
    print(f"{len(items) / seconds:,.0f} images/s over HTTP")


if __name__ == "__main__":
    main()
