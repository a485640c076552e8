"""Decoded images on the disk: made once, shared by jobs, never half."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import PIL
import pytest

from app import png
from app.errors import StorageFailed
from app.jobs.spec import TrainingSpec
from app.preprocessing import Preprocessing, UInt8Array, to_array
from app.store.datasets import Datasets
from app.training import dataset
from app.training.batches import in_pieces
from app.training.dataset import TrainingData, prepare
from app.training.decoded import DecodedImages, cache_key
from app.training.reporter import Cancelled, Reporter
from app.training.sources import Source
from app.training.splits import Split
from tests.store.archives import encoded, make_zip, photo

_SPEC = Preprocessing(height=4, width=5)
_SHAPE = (6, 4, 5, 3)
_BYTES = 6 * 4 * 5 * 3


def source_of(name: str = "some", images: int = 6) -> Source:
    return Source(
        name=name,
        labels=["a", "b"],
        names=[str(number) for number in range(images)],
        targets=np.zeros(images, np.int32),
        read=lambda _: b"",
        contents=[str(number) for number in range(images)],
        given=[None] * images,
        sizes=[(5, 4)] * images,
        grayscale=False,
        fingerprint=f"fingerprint of {name}",
        uploaded=True,
    )


class Decoder:
    """Makes images that are told apart by their values, and counts how often."""

    def __init__(self, shape: tuple[int, ...] = _SHAPE) -> None:
        self.images: UInt8Array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        self.calls = 0

    def __call__(self) -> Iterator[UInt8Array]:
        self.calls += 1
        for start in range(0, len(self.images), 4):
            yield self.images[start : start + 4]


def open_cache(
    root: Path, *, max_bytes: int = 2**30, check: Callable[[], None] = lambda: None, said: list[str] | None = None
) -> DecodedImages:
    lines: list[str] = [] if said is None else said
    return DecodedImages(root, max_bytes=max_bytes, check=check, say=lines.append)


def kept(root: Path) -> set[str]:
    """The keys of what is there."""
    return {path.parent.name for path in root.glob("*/images.npy")}


def test_the_second_job_finds_what_the_first_has_decoded(tmp_path: Path) -> None:
    """The same images with the same preprocessing are decoded once; what is mapped is what was decoded, to be read."""
    decoder, said = Decoder(), list[str]()
    first = open_cache(tmp_path, said=said).open(source_of(), _SPEC, decoder)
    second = open_cache(tmp_path, said=said).open(source_of(), _SPEC, decoder)
    assert decoder.calls == 1
    assert [line.split(" in ")[0] for line in said] == ["decoded 6 images"]
    for images in (first, second):
        assert isinstance(images, np.memmap)
        np.testing.assert_array_equal(images, decoder.images)
        with pytest.raises(ValueError, match="read-only"):
            images[0] = 0


def test_whatever_the_pixels_depend_on_makes_another_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other images, another preprocessing, another Pillow: none takes the other's pixels."""
    keys = {
        cache_key(source_of(), _SPEC),
        cache_key(source_of("other"), _SPEC),
        cache_key(source_of(), Preprocessing(height=5, width=4)),
        cache_key(source_of(), Preprocessing(height=4, width=5, resample="box")),
    }
    monkeypatch.setattr(PIL, "__version__", "0.1")
    keys.add(cache_key(source_of(), _SPEC))
    monkeypatch.setattr(png, "__file__", __file__)
    keys.add(cache_key(source_of(), _SPEC))
    assert len(keys) == 6
    assert cache_key(source_of(), _SPEC) in keys


def test_a_kill_in_the_middle_of_decoding_leaves_nothing_half(tmp_path: Path) -> None:
    """After `kill -9` the next job decodes all of it anew, and what the dead one had written is gone."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from tests.training.test_decoded import Decoder, open_cache, source_of, _SPEC\n"
        "decoder = Decoder()\n"
        "def die():\n"
        "    yield decoder.images[:4]\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "open_cache(Path(sys.argv[1])).open(source_of(), _SPEC, die)\n"
    )
    died = subprocess.run([sys.executable, "-c", program, str(tmp_path)], env=os.environ, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL
    assert kept(tmp_path) == set()
    assert len(list((tmp_path / ".staging").iterdir())) == 2
    decoder = Decoder()
    images = open_cache(tmp_path).open(source_of(), _SPEC, decoder)
    assert decoder.calls == 1
    np.testing.assert_array_equal(images, decoder.images)
    assert list((tmp_path / ".staging").iterdir()) == []


def test_a_failure_in_the_middle_of_decoding_leaves_nothing(tmp_path: Path) -> None:
    """An image that cannot be decoded, or a job that is cancelled: no file, and the lock is free."""

    def cancelled() -> Iterator[UInt8Array]:
        yield Decoder().images[:4]
        raise Cancelled

    with pytest.raises(Cancelled):
        open_cache(tmp_path).open(source_of(), _SPEC, cancelled)
    assert kept(tmp_path) == set()
    assert list((tmp_path / ".staging").iterdir()) == []
    assert len(open_cache(tmp_path).open(source_of(), _SPEC, Decoder())) == 6


@pytest.mark.parametrize("size", [0, 50, 300])
def test_a_file_that_was_cut_short_is_made_anew(tmp_path: Path, size: int) -> None:
    """A power cut, or somebody's hands: what is not whole is not used."""
    decoder = Decoder()
    open_cache(tmp_path).open(source_of(), _SPEC, decoder)
    gc.collect()
    [file] = tmp_path.glob("*/images.npy")
    os.truncate(file, size)
    images = open_cache(tmp_path).open(source_of(), _SPEC, decoder)
    assert decoder.calls == 2
    np.testing.assert_array_equal(images, decoder.images)


def test_of_two_jobs_at_a_time_one_decodes_and_the_other_waits(tmp_path: Path) -> None:
    """The second says what it waits for, and then uses what the first has made."""
    begun, go_on, waiting = threading.Event(), threading.Event(), threading.Event()
    decoder, results, said = Decoder(), list[UInt8Array](), list[str]()

    def slowly() -> Iterator[UInt8Array]:
        begun.set()
        assert go_on.wait(30)
        yield from decoder()

    def second() -> None:
        results.append(open_cache(tmp_path, check=waiting.set, said=said).open(source_of(), _SPEC, decoder))

    first = threading.Thread(target=lambda: results.append(open_cache(tmp_path).open(source_of(), _SPEC, slowly)))
    first.start()
    assert begun.wait(30)
    other = threading.Thread(target=second)
    other.start()
    assert waiting.wait(30)
    go_on.set()
    first.join(30)
    other.join(30)
    assert (len(results), decoder.calls) == (2, 1)
    assert said == ["waiting for another job, which decodes the same images"]


def test_a_wait_can_be_cancelled(tmp_path: Path) -> None:
    """A job that waits for another one's decoding ends when it is asked to."""

    def cancel() -> None:
        raise Cancelled

    def other_job() -> Iterator[UInt8Array]:
        with pytest.raises(Cancelled):
            open_cache(tmp_path, check=cancel).open(source_of(), _SPEC, Decoder())
        yield from Decoder()()

    assert len(open_cache(tmp_path).open(source_of(), _SPEC, other_job)) == 6


class TestRoom:
    def test_what_was_not_used_for_longest_goes_first(self, tmp_path: Path) -> None:
        """The cap is kept by removing what no job has used for the longest time."""
        cache = open_cache(tmp_path, max_bytes=3 * (_BYTES + 128))
        keys = {name: cache_key(source_of(name), _SPEC) for name in "abcd"}
        for age, name in enumerate("abc"):
            cache.open(source_of(name), _SPEC, Decoder())
            os.utime(tmp_path / keys[name], (1000 + age, 1000 + age))
        decoder = Decoder()
        cache.open(source_of("a"), _SPEC, decoder)
        gc.collect()
        cache.open(source_of("d"), _SPEC, Decoder())
        assert kept(tmp_path) == {keys["a"], keys["c"], keys["d"]}
        assert decoder.calls == 0

    def test_what_a_job_uses_stays(self, tmp_path: Path) -> None:
        """However little may be kept, the images of a job that runs are not taken away from it."""
        cache = open_cache(tmp_path, max_bytes=0)
        first = cache.open(source_of("a"), _SPEC, Decoder())
        second = cache.open(source_of("b"), _SPEC, Decoder())
        assert len(kept(tmp_path)) == 2
        del first, second
        gc.collect()
        cache.open(source_of("c"), _SPEC, Decoder())
        assert kept(tmp_path) == {cache_key(source_of("c"), _SPEC)}

    def test_a_disk_without_room_is_said_to_be_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Before anything is decoded, with what to do; older images make room first."""
        open_cache(tmp_path).open(source_of("a"), _SPEC, Decoder())
        gc.collect()
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2**20, total=2**40))
        decoder = Decoder()
        with pytest.raises(StorageFailed, match=r"take 0\.0 GiB, and .* free some space .* smaller preprocessing"):
            open_cache(tmp_path).open(source_of("b"), _SPEC, decoder)
        assert decoder.calls == 0
        assert kept(tmp_path) == set()

    def test_a_folder_that_cannot_be_written_is_a_failure_of_storage(self, tmp_path: Path) -> None:
        """The message says which folder."""
        (tmp_path / "file").touch()
        with pytest.raises(StorageFailed, match=r"cache of decoded images in .* cannot be written"):
            open_cache(tmp_path / "file" / "decoded").open(source_of(), _SPEC, Decoder())


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path) -> None:
    """Decoding to the disk, and passing over what is there, hold a few MiB, whatever the size of the whole."""
    spec = Preprocessing(height=128, width=128)
    source = source_of(images=1500)  # 70 MiB

    def parts() -> Iterator[UInt8Array]:
        for start in range(0, 1500, 100):
            yield np.full((100, *spec.shape), start // 100, np.uint8)

    tracemalloc.start()
    try:
        images = open_cache(tmp_path).open(source, spec, parts)
        everything = np.arange(1500, dtype=np.int64)
        data = TrainingData(source, spec, images, Split(everything, everything[:0], everything[:0]))
        means = [float(images.mean()) for images, _ in in_pieces(data, data.train)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(means) > 5
    assert np.mean([means[0], means[-1]]) == pytest.approx(7, abs=0.5)
    assert peak < 40 * 2**20


def test_a_job_on_an_upload_decodes_it_once_for_all(
    submit: Any, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second job, with another seed, decodes nothing and trains on the same pixels; one of another size does."""
    calls = list[bytes]()

    def counted(data: bytes, *arguments: Any, **options: Any) -> UInt8Array:
        calls.append(data)
        return to_array(data, *arguments, **options)

    files = {f"{label}/{n}.png": encoded(photo(n + 10 * i)) for i, label in enumerate("ab") for n in range(4)}
    datasets = Datasets(workspace / "datasets")
    datasets.add("photos", make_zip(tmp_path / "upload", files))
    monkeypatch.setattr(dataset, "to_array", counted)

    def prepared(**fields: object) -> TrainingData:
        job = submit(dataset="photos", **fields)
        spec: TrainingSpec = job.spec()
        return prepare(spec, datasets, Reporter(job, attempt=1), threads=2, decoded=workspace / "decoded")

    first, second = prepared(), prepared(seed=1)
    assert len(calls) == 8
    assert isinstance(second.images, np.memmap)
    np.testing.assert_array_equal(first.images, second.images)
    expected = [to_array(files[name], first.preprocessing) for name in sorted(files)]
    np.testing.assert_array_equal(first.images, expected)
    prepared(preprocessing={"height": 32, "width": 32})
    assert len(calls) == 16
