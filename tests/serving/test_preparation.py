"""Versions are compiled and timed in a process below all others, so that those who are answered do not feel it."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from app.errors import NotReady, VersionRefused
from app.serving import preparation
from app.serving.engine_choice import EngineChoice, Opening
from app.serving.golden import read_expected
from app.serving.likeness import kind_of
from app.serving.preparation import Preparation
from app.serving.runtimes import openvino_runtime
from app.serving.tuning_cache import TuningCache
from app.settings import Settings
from app.store.registry import Registry
from tests.serving.versions import add_version

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")


@pytest.fixture
def opening(registry: Registry, saved_models: Path) -> Opening:
    """A version for the real engines, opened while others are answered."""
    version = add_version(registry, saved_model=saved_models / "plain")
    folder, document = registry.folder("shapes", version), registry.manifest("shapes", version)
    expected = read_expected(folder, document)
    return Opening(folder, document, expected, lanes=2, threads=2, decode_seconds=0.001, beside=True)


def child(settings: Settings, code: str) -> Preparation:
    """A preparation that does something else."""
    return Preparation(settings, command=[sys.executable, "-c", code])


def priorities() -> set[int]:
    tasks = [int(task.name) for task in Path("/proc/self/task").iterdir()]
    return {os.getpriority(os.PRIO_PROCESS, task) for task in tasks}


@on_linux
def test_beside_others_nothing_is_compiled_or_timed_here(
    opening: Opening, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process does both; what it found and compiled is taken up, and no thread that serves has a low priority."""
    usual = priorities()

    def compile_here(*_: object) -> None:
        raise AssertionError("compiled by the server")

    monkeypatch.setattr(openvino_runtime._Opener, "_compile", compile_here)
    settings = Settings(cache=tmp_path / "cache", runtime="openvino")
    runtime, tuning = EngineChoice.of(settings).open(opening)
    try:
        assert (runtime.name, [*tuning.candidates]) == ("openvino-f32", ["openvino-f32"])
        assert priorities() == usual
    finally:
        runtime.close()
    (choice,) = TuningCache(tmp_path / "cache" / "engines").of(kind_of(opening.folder, opening.manifest))
    assert choice.provisional


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT"])
def test_a_version_that_brings_it_down_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It would have been the server."""
    monkeypatch.setattr(preparation, "_PAUSE", 0)
    code = f"import os, signal; os.kill(os.getpid(), signal.{name})"
    with pytest.raises(VersionRefused, match=f"it ended the process that compiled it, with {name}"):
        child(Settings(cache=tmp_path), code).run(tmp_path, lanes=1, threads=1)


def test_one_abort_is_no_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory or threads may have been short for a moment."""
    monkeypatch.setattr(preparation, "_PAUSE", 0)
    first = tmp_path / "first"
    first.mkdir()
    code = f"import os; os.path.exists({str(first)!r}) and (os.rmdir({str(first)!r}), os.abort())"
    child(Settings(cache=tmp_path), code).run(tmp_path, lanes=1, threads=1)
    assert "tried once more" in caplog.text
    assert "not prepared" not in caplog.text


def test_after_an_abort_the_server_does_not_try_it_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ends the second process, short of itself, might end the server."""
    monkeypatch.setattr(preparation, "_PAUSE", 0)
    first = tmp_path / "first"
    first.mkdir()
    once = f"os.path.exists({str(first)!r}) and (os.rmdir({str(first)!r}), os.abort())"
    code = f"import os; {once}; os.kill(os.getpid(), 9)"
    with pytest.raises(VersionRefused, match="SIGABRT"):
        child(Settings(cache=tmp_path), code).run(tmp_path, lanes=1, threads=1)


def test_it_is_no_part_of_the_servers_group_and_knows_that_the_server_lives(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ctrl-C is for the server, which ends it in its own way; and its standard input is open while someone waits."""
    code = (
        "import os, select, sys; task = sys.stdin.readline(); closed = select.select([0], [], [], 0.2)[0]; "
        f"sys.exit(0 if task and not closed and os.getpgid(0) != {os.getpgid(0)} else 'No.')"
    )
    child(Settings(cache=tmp_path), code).run(tmp_path, lanes=1, threads=1)
    assert caplog.text == ""


def test_what_has_ended_is_forgotten_in_turn_with_stopping(tmp_path: Path) -> None:
    """A server that stops goes through those that run, which must not change meanwhile."""
    runs = child(Settings(cache=tmp_path), "import time; time.sleep(60)")
    thread = threading.Thread(target=lambda: runs.run(tmp_path, lanes=1, threads=1))
    thread.start()
    while not runs._children:
        time.sleep(0.001)
    with runs._lock:
        (process,) = runs._children
        process.kill()
        thread.join(0.3)
        assert runs._children == {process}
    thread.join(20)
    assert not runs._children


@pytest.mark.parametrize("code", ["import sys; sys.exit('No luck.')", "import os; os.kill(os.getpid(), 9)"])
def test_where_it_fails_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture, code: str) -> None:
    """And the server does it itself."""
    child(Settings(cache=tmp_path), code).run(tmp_path, lanes=1, threads=1)
    assert "was not prepared aside" in caplog.text
    assert ("No luck." in caplog.text) == ("luck" in code)


def test_where_no_process_can_be_started_the_log_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server does it itself then, too."""
    Preparation(Settings(cache=tmp_path), command=[str(tmp_path / "missing")]).run(tmp_path, lanes=1, threads=1)
    assert "No process can be started" in caplog.text


def test_a_server_that_stops_does_not_wait_for_it(tmp_path: Path) -> None:
    """It is ended, and none is begun any more."""
    (tmp_path / "begun").mkdir()
    code = f"import os, time; os.rmdir({str(tmp_path / 'begun')!r}); time.sleep(60)"
    runs = child(Settings(cache=tmp_path), code)
    failures: list[Exception] = []

    def run() -> None:
        try:
            runs.run(tmp_path, lanes=1, threads=1)
        except NotReady as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while (tmp_path / "begun").exists():
        time.sleep(0.01)
    runs.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert len(failures) == 1
    with pytest.raises(NotReady, match="shutting down"):
        runs.run(tmp_path, lanes=1, threads=1)
