"""Versions are compiled and timed in a process below all others, so that those who are answered do not feel it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from app.errors import NotReady, VersionRefused
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


@on_linux
def test_it_has_only_what_nobody_else_wants() -> None:
    """The lowest priority; and where memory runs out, it is ended before the server is."""
    code = (
        "import os; from app.serving.preparation import yield_to_others; yield_to_others(); "
        "print(os.getpriority(os.PRIO_PROCESS, 0), open('/proc/self/oom_score_adj').read())"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.split()
    assert said == [b"19", b"600"]


def test_a_version_that_brings_it_down_is_refused(tmp_path: Path) -> None:
    """It would have been the server."""
    with pytest.raises(VersionRefused, match="it ended the process that compiled it, with SIGABRT"):
        child(Settings(cache=tmp_path), "import os; os.abort()").run(tmp_path, lanes=1, threads=1)


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
    preparation = child(Settings(cache=tmp_path), code)
    failures: list[Exception] = []

    def run() -> None:
        try:
            preparation.run(tmp_path, lanes=1, threads=1)
        except NotReady as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while (tmp_path / "begun").exists():
        time.sleep(0.01)
    preparation.stop()
    thread.join(20)
    assert not thread.is_alive()
    assert len(failures) == 1
    with pytest.raises(NotReady, match="shutting down"):
        preparation.run(tmp_path, lanes=1, threads=1)
