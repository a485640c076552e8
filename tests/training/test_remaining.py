"""The time left."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.training.phases import Phase
from app.training.remaining import Afterwards, Shares, TimeLeft, answers_afterwards

SHARES = Shares(steps=100, batch_size=10, validation=200)
# Three epochs of the last layer alone, then nine of all of the network.
FROZEN, THAWED = Phase(1, 3, 0.001, frozen=True), Phase(4, 9, 0.0001, frozen=False)


def _alike(epochs: int) -> list[Phase]:
    return [Phase(1, epochs, 0.01, frozen=False)]


def _play(clock: TimeLeft, step: float, answer: float, start: float) -> None:
    """An epoch whose steps and answers take so long, after `start` seconds of tracing."""
    clock.steps_done(SHARES.steps, SHARES.steps * step)
    clock.answered(SHARES.validation, SHARES.validation * answer)
    clock.epoch_done(SHARES.steps * step + SHARES.validation * answer + start, start)


def test_what_only_the_first_epoch_does_is_not_counted_again() -> None:
    """An epoch is 100 x 0.1 s + 200 x 0.01 s, and the 6 s of tracing come once."""
    clock = TimeLeft(_alike(10), SHARES)
    _play(clock, 0.1, 0.01, start=6)
    assert clock.left(1) == pytest.approx(9 * 12)
    _play(clock, 0.1, 0.01, start=0)
    assert clock.left(2) == pytest.approx(8 * 12)


def test_from_the_second_epoch_on_the_first_does_not_count() -> None:
    """What is slow in it besides tracing would make for too long an estimate."""
    clock = TimeLeft(_alike(10), SHARES)
    _play(clock, 0.2, 0.02, start=6)
    _play(clock, 0.1, 0.01, start=0)
    assert clock.left(2) == pytest.approx(8 * 12)


def test_amid_an_epoch_the_steps_that_are_done_are_taken_off() -> None:
    """Half of the steps are half of their share of the epoch; validation comes after the last."""
    clock = TimeLeft(_alike(10), SHARES)
    _play(clock, 0.1, 0.01, start=0)
    assert clock.left(1, step=50) == pytest.approx(8 * 12 + 5 + 2)
    assert clock.left(10) == 0


def test_in_the_first_epoch_steps_alone_tell() -> None:
    """Before anything was answered an answer counts as a third of learning from an image, or so."""
    clock = TimeLeft(_alike(2), SHARES)
    clock.steps_done(10, 1.0)
    assert clock.left(0, step=10) == pytest.approx(2 * (10 + 200 * 0.003) - 1)


def test_a_resumed_run_estimates_from_the_epochs_before() -> None:
    """Until it has done an epoch itself: an earlier machine may have been another."""
    clock = TimeLeft(_alike(10), SHARES, earlier=[30, 12, 12, 12])
    assert clock.left(4) == pytest.approx(6 * 12)
    _play(clock, 0.3, 0.03, start=5)
    _play(clock, 0.3, 0.03, start=0)
    assert clock.left(6) == pytest.approx(4 * 36)


def test_the_pace_follows_a_machine_that_becomes_busy() -> None:
    """The median of the last five epochs."""
    clock = TimeLeft(_alike(100), SHARES)
    for _ in range(20):
        _play(clock, 0.1, 0.01, start=0)
    for _ in range(3):
        _play(clock, 0.2, 0.02, start=0)
    assert clock.left(23) == pytest.approx(77 * 24)


def test_epochs_that_thaw_the_base_are_counted_as_slower_ones() -> None:
    """Before their pace is known a step counts for three, and an answer for what it took."""
    clock = TimeLeft([FROZEN, THAWED], SHARES)
    clock.begin(FROZEN)
    _play(clock, 0.1, 0.01, start=0)
    assert clock.left(1) == pytest.approx(2 * 12 + 9 * (30 + 2))
    assert clock.left(1, step=50) == pytest.approx(5 + 2 + 12 + 9 * (30 + 2))
    _play(clock, 0.1, 0.01, start=0)
    _play(clock, 0.1, 0.01, start=0)
    assert clock.left(3) == pytest.approx(9 * (30 + 2))
    clock.begin(THAWED)
    # The first chunk is traced: it tells nothing, and is done all the same.
    assert clock.left(3, step=10) == pytest.approx(9 * (30 + 2) - 3)
    clock.steps_done(10, 4.0)
    assert clock.left(3, step=20) == pytest.approx(9 * (40 + 2) - 8)
    _play(clock, 0.4, 0.01, start=7)
    assert clock.left(4) == pytest.approx(8 * (40 + 2))


def test_a_run_that_is_resumed_in_its_second_phase_knows_the_pace_of_that() -> None:
    """The frozen epochs say nothing of it any more; between the two, they are all that is known."""
    earlier = [20.0, 12.0, 12.0, 50.0, 42.0, 42.0]
    assert TimeLeft([FROZEN, THAWED], SHARES, earlier).left(6) == pytest.approx(6 * 42)
    clock = TimeLeft([FROZEN, THAWED], SHARES, earlier[:3])
    clock.begin(THAWED)
    assert clock.left(3) == pytest.approx(9 * 36)


def test_what_comes_after_the_last_epoch_is_remembered_from_job_to_job(tmp_path: Path) -> None:
    """The constant is learnt; answering images is computed from the pace."""
    unknown = Afterwards(tmp_path).seconds(1000, 0.001)
    Afterwards(tmp_path).remember(23.0, 1000, 0.001)
    assert Afterwards(tmp_path).seconds(1000, 0.001) == pytest.approx(23.0)
    assert Afterwards(tmp_path).seconds(5000, 0.001) == pytest.approx(27.0)
    assert unknown == pytest.approx(6.0)


def test_jobs_that_end_at_a_time_do_not_write_into_each_others_files(tmp_path: Path) -> None:
    """What one has written aside is its own until it has taken its place."""
    script = (
        "import os, sys, pathlib, app.training.remaining as r\n"
        "write = pathlib.Path.write_text\n"
        "def pause(path, *a, **k):\n"
        "    write(path, *a, **k); print('written', flush=True); sys.stdin.readline()\n"
        "pathlib.Path.write_text = pause\n"
        "r.Afterwards(pathlib.Path(sys.argv[1])).remember(7.0, 0, 0.0)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "written\n"
        Afterwards(tmp_path).remember(5.0, 0, 0.0)
        assert Afterwards(tmp_path).seconds(0, 0.0) == 5.0
        other.communicate("go on\n")
    assert Afterwards(tmp_path).seconds(0, 0.0) == 7.0
    assert [file.name for file in tmp_path.iterdir()] == ["afterwards.json"]


def test_what_is_answered_after_the_last_epoch_is_counted() -> None:
    """Validation once, the test split twice and in each lower precision; all of it twice with mirror images."""
    assert answers_afterwards(validation=100, test=200, precisions=1, mirrored=False) == 700
    assert answers_afterwards(validation=100, test=200, precisions=2, mirrored=True) == 1800


@pytest.mark.parametrize("spoilt", ["", "{}", '["long"]', "[-5]"])
def test_a_spoilt_memory_is_none(tmp_path: Path, spoilt: str) -> None:
    """An estimate never fails a job."""
    (tmp_path / "afterwards.json").write_text(spoilt)
    assert Afterwards(tmp_path).seconds(0, 0.0) == Afterwards(tmp_path / "none").seconds(0, 0.0)
    Afterwards(tmp_path).remember(4.0, 0, 0.0)
    assert Afterwards(tmp_path).seconds(0, 0.0) == 4.0
