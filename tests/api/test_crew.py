"""What the processes that share a port have in common, and what each gets of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.api import crew as crews
from app.api.crew import Crew
from app.serving.sizing import Suitable
from app.settings import Settings


@pytest.mark.parametrize(("processes", "cores"), [(1, 8), (2, 4), (3, 2), (8, 1), (64, 1)])
def test_processes_share_cores_and_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: int, cores: int
) -> None:
    """Together they have as many threads as there are cores, and as many places as are set; each has one at least, and
    places enough for the largest request."""
    monkeypatch.setattr(crews, "available_cores", lambda: 8)
    shared = Crew(tmp_path, size=processes).share(Settings(max_queue=512, max_files=20))
    assert (shared.lanes, shared.inference_threads) == (cores, cores)
    assert shared.max_queue == max(-(-512 // processes), 20)


def test_threads_that_are_set_are_each_processes(tmp_path: Path) -> None:
    """A number of lanes or threads holds for a process, as it says."""
    shared = Crew(tmp_path, size=2).share(Settings(lanes=3, inference_threads=5))
    assert (shared.lanes, shared.inference_threads) == (3, 5)


def test_a_process_alone_is_complete_and_has_all() -> None:
    """There is nobody to wait for."""
    alone = Crew()
    assert alone.complete
    assert alone.occupancy is None
    assert alone.share(Settings(max_queue=7)).max_queue == 7


def test_crew_is_complete_when_the_parent_says_so(tmp_path: Path) -> None:
    """Which it does when all have loaded; the first also says how many would suit."""
    first = Crew(tmp_path / "crew", number=0, size=2)
    second = Crew(tmp_path / "crew", number=1, size=2)
    first.prepare()
    second.report_loaded(Suitable(1, {}))
    assert not first.all_loaded
    first.report_loaded(Suitable(4, {"shapes": 1}))
    assert first.all_loaded
    assert first.suitable == Suitable(4, {"shapes": 1})
    assert not second.complete
    first.report_complete()
    assert second.complete
