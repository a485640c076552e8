"""Trains on memory maps of growing size, and prints the peak of memory that is not the files'. A program.

Arguments: a job's folder, a scratch folder, bytes, and numbers of images; prints a number of bytes for each. From the
second one on the kernel lets it have no more than those bytes beyond what it has then, which it prints whether it does.
"""

from __future__ import annotations

import mmap
import resource
import threading
from pathlib import Path

import numpy as np

from app.jobs.folder import JobFolder
from app.preprocessing import Preprocessing
from app.training.dataset import TrainingData
from app.training.fit import fit
from app.training.reporter import Reporter
from app.training.sources import Source
from app.training.splits import Split

SIDE = 64


class _Peak:
    """The most anonymous memory (RssAnon: no files) that this process held while the block ran, in bytes."""

    def __enter__(self) -> _Peak:
        self.bytes = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.wait(0.01):
            self.bytes = max(self.bytes, _status("RssAnon"))


def _status(name: str) -> int:
    """A number of bytes that the kernel counts for this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1024 * int(line.split()[1])


def _limit(room: int) -> bool:
    """Let this process have so many bytes more, of what is neither a file nor shared; returns whether that holds."""
    most = _status("VmData") + room
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    try:
        mmap.mmap(-1, room + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        return True
    return False


def _data(folder: Path, count: int) -> TrainingData:
    """So many images of noise in a memory map, in two classes."""
    path = folder / f"{count}.npy"
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (count, SIDE, SIDE, 3))
    random = np.random.default_rng(0)
    for number in range(count):
        images[number] = random.integers(0, 256, images.shape[1:], np.uint8)
    images.flush()
    names = [str(number) for number in range(count)]
    targets = np.arange(count, dtype=np.int32) % 2
    source = Source(
        name="noise",
        labels=["one", "two"],
        names=names,
        targets=targets,
        read=lambda _: b"",
        contents=names,
        given=[None] * count,
        sizes=[(SIDE, SIDE)] * count,
        grayscale=False,
        fingerprint="0" * 64,
    )
    third = count // 3
    everything = np.arange(count)
    split = Split(train=everything[: 2 * third], validation=everything[2 * third : -10], test=everything[-10:])
    preprocessing = Preprocessing(height=SIDE, width=SIDE, color="rgb")
    return TrainingData(source, preprocessing, np.load(path, mmap_mode="r"), split)


def main(arguments: list[str]) -> int:
    folder, scratch, room, *counts = arguments
    job = JobFolder(Path(folder))
    for position, count in enumerate(counts):
        if position == 1:
            print("LIMIT", "kept" if _limit(int(room)) else "not kept", flush=True)
        data = _data(Path(scratch), int(count))
        with _Peak() as peak:
            fit(job.spec(), data, Path(scratch) / f"checkpoint-{count}", Reporter(job, attempt=1))
        print("PEAK", peak.bytes, flush=True)
    return 0
