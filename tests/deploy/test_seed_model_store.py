"""The script that copies shipped models into an empty volume of the cluster."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "k8s/base/seed_model_store.sh"


def seed(shipped: Path, store: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(["sh", SCRIPT, shipped, store], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    version = tmp_path / "shipped/cifar10/1"
    version.mkdir(parents=True)
    (version / "model.json").write_text("{}")
    (version / "weights").write_bytes(b"\0" * 2_000_000)
    promotions = tmp_path / "shipped/cifar10/promotions"
    promotions.mkdir()
    (promotions / "00000001.json").write_text("{}")
    return tmp_path / "shipped"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_empty_store_gets_the_shipped_models(shipped: Path, store: Path) -> None:
    """With their promotions, and with nothing left over."""
    with seed(shipped, store) as process:
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out, err) == (0, "seeded the model cifar10\n", "")
    assert tree(store) == tree(shipped)
    assert [path.name for path in store.iterdir()] == ["cifar10"]


def test_a_model_that_the_store_knows_is_left_alone(shipped: Path, store: Path) -> None:
    """Versions and promotions made in the cluster survive the next start of a pod."""
    (store / "cifar10/7").mkdir(parents=True)
    (store / "cifar10/7/model.json").write_text("own")
    with seed(shipped, store) as process:
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert tree(store) == {"cifar10/7/model.json": b"own"}


def test_pods_that_start_together_seed_once(shipped: Path, store: Path) -> None:
    """Whoever renames first wins; the others see a whole model and go on."""
    processes = [seed(shipped, store) for _ in range(8)]
    results = [process.communicate(timeout=20) for process in processes]
    assert [process.returncode for process in processes] == [0] * 8
    assert [out for out, _ in results].count("seeded the model cifar10\n") == 1
    assert tree(store) == tree(shipped)
    assert [path.name for path in store.iterdir()] == ["cifar10"]


def test_what_a_killed_pod_left_is_removed(shipped: Path, store: Path) -> None:
    """But not what another pod may still be at."""
    for name, age in {".seed-old": 7200, ".seed-new": 60}.items():
        (store / name / "cifar10").mkdir(parents=True)
        os.utime(store / name, (time.time() - age,) * 2)
    with seed(shipped, store) as process:
        process.communicate(timeout=20)
    assert process.returncode == 0
    assert sorted(path.name for path in store.iterdir()) == [".seed-new", "cifar10"]


def test_a_store_that_cannot_be_written_stops_the_pod(shipped: Path, tmp_path: Path) -> None:
    """The pod must not go on to serve a store that it cannot use."""
    with seed(shipped, tmp_path / "missing") as process:
        _, err = process.communicate(timeout=20)
    assert process.returncode != 0
    assert "missing" in err
