"""The files that a broken run goes on from."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from app.training import checkpoint
from app.training.checkpoint import Checkpoint, Epoch


def _state(step: int, epochs: int = 1) -> Checkpoint:
    array = np.full((3, 2), step, np.float32)
    history = [Epoch(number, 0.5, 0.5, 0.5, 0.5, 0.1, 1.0) for number in range(1, epochs + 1)]
    return Checkpoint(
        [array, array + 1], [np.array(step)], [], [array], 1, history, step, [np.array(0.25), np.array(7)], 1.5, 2
    )


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    """Arrays with their types, history, step, sums and the number of threads."""
    state = _state(5)
    state.save(tmp_path / "checkpoint")
    loaded = Checkpoint.load(tmp_path / "checkpoint")
    assert loaded is not None
    for name in ("variables", "optimizer", "average", "best", "sums"):
        for one, other in zip(getattr(state, name), getattr(loaded, name), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
    assert (loaded.history, loaded.step, loaded.seconds, loaded.threads) == (state.history, 5, 1.5, 2)


def test_two_generations_are_kept(tmp_path: Path) -> None:
    """The last and the one before it, in the order of epochs and steps."""
    for epochs, step in ((1, 900), (1, 1000), (2, 0), (2, 50)):
        _state(step, epochs).save(tmp_path)
    assert [path.name[:16] for path in sorted(tmp_path.iterdir())] == ["000002-000000000", "000002-000000050"]


@pytest.mark.parametrize(
    "tear",
    [lambda data: data[: len(data) // 2], lambda _: b"", lambda data: data[:-40] + b"\0" * 40],
    ids=["cut in half", "empty", "zeros at its end"],
)
def test_a_torn_checkpoint_falls_back_to_the_one_before(tmp_path: Path, tear: Callable[[bytes], bytes]) -> None:
    """A file whose content is not what its name says is passed over, and removed; the run hears of it."""
    _state(10).save(tmp_path)
    _state(20).save(tmp_path)
    last = max(tmp_path.iterdir())
    last.write_bytes(tear(last.read_bytes()))
    said: list[str] = []
    loaded = Checkpoint.load(tmp_path, said.append)
    assert loaded is not None
    assert loaded.step == 10
    assert said == [f"the checkpoint {last.name} is damaged; going on from the one before it"]
    # What is saved next counts, though its step is before that of the torn one.
    _state(15).save(tmp_path)
    newest = Checkpoint.load(tmp_path)
    assert newest is not None
    assert newest.step == 15


def test_nothing_readable_is_a_beginning(tmp_path: Path) -> None:
    """No folder, and files of another release: training begins anew."""
    assert Checkpoint.load(tmp_path / "none") is None
    np.savez(tmp_path / "state.npz", meta=np.zeros(3))
    assert Checkpoint.load(tmp_path) is None


def test_checkpoints_of_another_format_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are no beginning, and do not push out what the run that begins anew saves, however far theirs got."""
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_FORMAT", checkpoint._FORMAT - 1)
        _state(0, epochs=7).save(tmp_path)
        _state(0, epochs=8).save(tmp_path)
    said: list[str] = []
    assert Checkpoint.load(tmp_path, said.append) is None
    assert len(said) == 2
    assert all(line.endswith("is of another release, and removed") for line in said)
    _state(5).save(tmp_path)
    loaded = Checkpoint.load(tmp_path)
    assert loaded is not None
    assert loaded.step == 5


def test_a_disk_that_is_too_full_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the space does not suffice nothing is written, and the error says what was needed."""

    class Usage(NamedTuple):
        free: int

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1000))
    with pytest.raises(OSError, match="no space left for a checkpoint of"):
        _state(5).save(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The half-written file is removed, and the checkpoints before it stay."""
    _state(5).save(tmp_path)

    def refuse(file: Any, **_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", refuse)
    with pytest.raises(OSError, match="No space left"):
        _state(6).save(tmp_path)
    assert [path.name[:16] for path in tmp_path.iterdir()] == ["000001-000000005"]
