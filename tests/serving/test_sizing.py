"""How many processes suit the models."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.serving.sizing import Sizing, Suitable, free_memory, own_memory, suitable_workers

SMALL, LARGE, HUGE = 0.0002, 0.007, 0.2
MEGABYTE = 2**20


def workers(*seconds: float, cores: int, free: int = 10**6) -> int:
    return suitable_workers(seconds, cores, worker_bytes=150 * MEGABYTE, free_bytes=free * MEGABYTE)


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
def test_small_models_get_a_process_a_core(cores: int) -> None:
    """Python takes most of the time, under a lock a process."""
    assert workers(SMALL, cores=cores) == cores


def test_large_models_get_one_process() -> None:
    """A second would only cost memory, until there are so many cores that one process's Python is too slow for them."""
    assert [workers(LARGE, cores=cores) for cores in (1, 2, 8, 64)] == [1, 1, 1, 5]
    assert [workers(HUGE, cores=cores) for cores in (1, 2, 8, 64)] == [1, 1, 1, 1]


def test_the_fastest_of_several_models_decides() -> None:
    """Its requests would find the other cores out of reach; to the large ones more processes do no harm."""
    assert workers(HUGE, SMALL, LARGE, cores=8) == 8


def test_memory_bounds_the_processes() -> None:
    """At most half of what is free is taken: 64 cores and 1 GB do not make 64 processes."""
    assert workers(SMALL, cores=64, free=1000) == 4
    assert workers(SMALL, cores=64, free=0) == 1


def test_without_a_model_there_is_one_process() -> None:
    """There is nothing to tell from."""
    assert workers(cores=8) == 1


def test_what_suits_is_remembered_for_the_same_cores_and_models(tmp_path: Path) -> None:
    """The next start begins with it, whatever the models are; once they are loaded, others are seen to be others."""
    sizing = Sizing(tmp_path, 8)
    assert sizing.recall() is None
    sizing.settle(8, Suitable(8, {"shapes": 1}))
    assert Sizing(tmp_path, 8).recall() == 8
    assert Sizing(tmp_path, 8).recall({"shapes": 1}) == 8
    assert Sizing(tmp_path, 8).recall({"shapes": 2}) is None
    assert Sizing(tmp_path, 4).recall() is None


def test_number_that_does_not_serve_is_not_remembered(tmp_path: Path) -> None:
    """Where other models would suit another number, or so many would not start, the next start finds it anew."""
    sizing = Sizing(tmp_path, 8)
    sizing.settle(1, Suitable(8, {"shapes": 1}))
    assert sizing.recall() is None
    sizing.settle(8, Suitable(8, {"shapes": 1}))
    sizing.settle(1, Suitable(1, {}))
    assert sizing.recall() == 8
    sizing.settle(8, Suitable(2, {"shapes": 2}))
    assert sizing.recall() is None


def test_unknown_memory_bounds_nothing() -> None:
    """Not every system tells; cores still bound the number."""
    assert suitable_workers([SMALL], 8, worker_bytes=None, free_bytes=None) == 8
    assert suitable_workers([SMALL], 8, worker_bytes=0, free_bytes=None) == 8


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"workers": 0, "cores": 8}', '{"workers": "2", "cores": 8}', "\xff"])
def test_damaged_memory_is_no_memory(tmp_path: Path, text: str) -> None:
    """A file that is not as it was written counts for nothing, and is replaced."""
    sizing = Sizing(tmp_path, 8)
    sizing.settle(2, Suitable(2, {"shapes": 1}))
    [file] = (tmp_path / "workers").iterdir()
    file.write_text(text, "latin-1")
    assert sizing.recall() is None
    sizing.settle(2, Suitable(2, {"shapes": 1}))
    assert sizing.recall() == 2


def test_memory_that_is_free_is_what_the_container_leaves(tmp_path: Path) -> None:
    """The machine's, or less if a limit of the cgroup is nearer."""
    if not Path("/proc/meminfo").exists():
        pytest.skip("this system does not say")
    own = own_memory()
    assert own is not None
    assert own > 10 * MEGABYTE
    assert (free_memory(tmp_path) or 0) > 0
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("1000\n")
    assert free_memory(tmp_path) == 2000
    (tmp_path / "memory.max").write_text("max\n")
    assert (free_memory(tmp_path) or 0) > 2000
