"""Teams of workers: which serves, and what becomes of the other. The workers are scripts: they load, stay or die."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from app.api import workers
from app.api.crew import Crew
from app.serving.sizing import Suitable
from tests.server import wait_for

FOUND = Suitable(2, {"shapes": 1})
# What a worker does, by its crew; `loaded N` says so for the worker N.
LOADED = """loaded() { echo '[2, {"shapes": 1}]' > "loaded-$1"; }\n"""
STAYS = "loaded 0; loaded 1; exec sleep 100"
CLINGS = "trap '' TERM; echo $$ > ../pid; loaded 0; while :; do sleep 0.1; done"
# Asked to end, it leaves a mark if the first is still there.
LOOKS = """trap 'kill -0 $(cat ../pid) && touch ../in-time; exit 0' TERM
loaded 0; loaded 1; while :; do sleep 0.1; done"""
DIES = "exit 3"

Begin = Callable[[str, str], workers._Teams]


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begin]:
    """Starts teams, of which workers of the first do one thing and those of the second another."""
    monkeypatch.setattr(workers, "_RESTART_SECONDS", 0.02)
    with ExitStack() as stack:

        def begin(first: str, second: str) -> workers._Teams:
            script = tmp_path / "worker"
            cases = "".join(
                f"*{name}*) cd '{tmp_path / name}'; {what} ;;\n"
                for name, what in (("first", first), ("second", second))
            )
            script.write_text(f'#!/bin/sh\n{LOADED}case "$3" in\n{cases}esac\n')
            script.chmod(0o700)
            monkeypatch.setattr(sys, "executable", str(script))
            pipe = stack.enter_context((tmp_path / "pipe").open("w"))

            def start(name: str, size: int, *, answers: bool) -> workers._Team:
                crew = Crew(tmp_path / name, size=size)
                return workers._Team(crew, pipe.fileno(), pipe.fileno(), {"PATH": "/usr/bin:/bin"}, answers=answers)

            teams = workers._Teams(start, 1, 1.0, adjust=True)
            stack.callback(teams.end)
            return teams

        yield begin


def test_as_many_as_suit_take_the_place_of_the_first(begin: Begin) -> None:
    """When they have loaded; then they end in good order."""
    teams = begin(STAYS, STAYS)
    assert wait_for(teams.step, what="the whole") == FOUND
    assert teams.size == 2
    assert teams.end()


def test_successors_that_keep_dying_are_given_up(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    """The service is there with the workers that it began with."""
    teams = begin(STAYS, DIES)
    assert wait_for(teams.step, what="the whole") == FOUND
    assert teams.size == 1
    assert "2 workers, which would suit the models, do not get to serve" in caplog.text
    assert teams.end()


def test_a_worker_that_does_not_leave_is_killed_in_the_end(begin: Begin) -> None:
    """Its successors are there then."""
    teams = begin(CLINGS, STAYS)
    assert wait_for(teams.step, what="the whole") == FOUND
    assert teams.size == 2


def test_all_teams_are_told_to_end_at_once(begin: Begin, tmp_path: Path) -> None:
    """Also while one of them takes its time to leave: the service has one grace, not one for each."""
    teams = begin(CLINGS, LOOKS)
    wait_for(lambda: teams.step() or teams.size == 2, what="the second team")
    teams.end()
    assert (tmp_path / "in-time").exists()
