"""The process that looks into models: started when it is first asked, one for all, replaced when it was killed."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from app.errors import (
    DeadlineExceeded,
    ExplainUnavailable,
    InferenceFailed,
    ModelNotFound,
    NotReady,
    Overloaded,
    VersionRefused,
)
from app.serving.explaining import Explaining
from app.settings import Settings
from app.store.registry import Registry
from tests.server import wait_for
from tests.serving.versions import add_version

Start = Callable[..., Explaining]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Makes ways to the explainer of a workspace, as each process that serves has one."""
    with ExitStack() as stack:

        def start(workspace: Path = tmp_path / "workspace", **options: Any) -> Explaining:
            workspace.mkdir(parents=True, exist_ok=True)
            explaining = Explaining(Settings(model_store=tmp_path / "store", workspace=workspace), **options)
            stack.callback(explaining.close)
            return explaining

        yield start


def holder(workspace: Path) -> int:
    """Which process the explainer of a workspace is, or was last."""
    [lock] = (workspace / "cache").glob("explainer-*/lock")
    return int(lock.read_text())


@pytest.fixture
def process(tmp_path: Path) -> Callable[[], int]:
    """Tells which process the explainer is."""
    return lambda: holder(tmp_path / "workspace")


def ask(explaining: Explaining, seconds: float = 30) -> str:
    """What comes of a question that needs no TensorFlow: there is no such model."""
    question = explaining.question(method="layers", model="nobody", version=1)
    with pytest.raises(ModelNotFound) as error:
        explaining.ask(question, deadline=time.monotonic() + seconds)
    return str(error.value)


def state(pid: int) -> str:
    """What a process does, in a letter; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended but was not waited for does not."""
    return state(pid) not in ("", "Z")


def halt(pid: int) -> None:
    """Stop a process where it is. All of its threads: the signal comes when they run next."""
    os.kill(pid, signal.SIGSTOP)
    threads = [int(thread.name) for thread in Path(f"/proc/{pid}/task").iterdir()]
    wait_for(lambda: all(state(thread) == "T" for thread in threads), what="its halt")


def test_one_process_answers_all_and_gives_way_to_them(
    start: Start, process: Callable[[], int], registry: Registry
) -> None:
    """It is started by the first question, below all others, and is there for other servers of the workspace too."""
    add_version(registry, promote=True)
    one, other = start(), start()
    assert ask(one) == "There is no model 'nobody'. There is: shapes."
    pid = process()
    assert pid != os.getpid()
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert ask(other).startswith("There is no model")
    assert process() == pid
    one.close()
    assert ask(other).startswith("There is no model")
    assert process() == pid


def test_a_killed_process_is_replaced(start: Start, process: Callable[[], int]) -> None:
    """Whether it was waiting or at work: the question gets its answer from another one."""
    explaining = start()
    ask(explaining)
    first = process()
    os.kill(first, signal.SIGKILL)
    ask(explaining)
    second = process()
    assert first != second
    halt(second)
    threading.Timer(0.3, os.kill, (second, signal.SIGKILL)).start()
    ask(explaining)
    assert process() != second


def test_it_ends_when_nobody_asks(start: Start, process: Callable[[], int]) -> None:
    """Its memory is given back; the next question starts another."""
    explaining = start(idle=0.2)
    ask(explaining)
    pid = process()
    wait_for(lambda: not alive(pid), what="its end")
    ask(explaining)
    assert process() != pid


def test_it_ends_with_the_last_server(start: Start, process: Callable[[], int]) -> None:
    """However that came to its end: the system closes its connection."""
    explaining = start()
    ask(explaining)
    pid = process()
    explaining.close()
    wait_for(lambda: not alive(pid), what="its end")
    with pytest.raises(NotReady):
        explaining.ask(explaining.question(method="layers", model="x", version=1), deadline=time.monotonic() + 5)


def test_who_stops_waits_for_no_answer(start: Start, process: Callable[[], int]) -> None:
    """A service that shuts down breaks off what it asked."""
    explaining = start()
    ask(explaining)
    halt(process())
    threading.Timer(0.2, explaining.close).start()
    begin = time.monotonic()
    with pytest.raises(NotReady):
        explaining.ask(explaining.question(method="layers", model="x", version=1), deadline=begin + 60)
    os.kill(process(), signal.SIGKILL)


def test_an_answer_that_comes_too_late_is_given_up(start: Start, process: Callable[[], int]) -> None:
    """And is not taken for that to the next question."""
    explaining = start()
    ask(explaining)
    halt(process())
    question = explaining.question(method="layers", model="somebody", version=1)
    with pytest.raises(DeadlineExceeded):
        explaining.ask(question, deadline=time.monotonic() + 0.2)
    os.kill(process(), signal.SIGCONT)
    assert "'nobody'" in ask(explaining)


def test_few_wait_at_a_time(start: Start) -> None:
    """The fifth is told to come back, before anything is read or decoded."""
    explaining = start()
    with ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(explaining.place())
        with pytest.raises(Overloaded, match="4 explanations"), explaining.place():
            pass
    with explaining.place():
        pass


def test_without_tensorflow_it_is_said_what_to_install(start: Start) -> None:
    """The serving image has none."""
    with (
        pytest.raises(ExplainUnavailable, match=r"needs tensorflow_of_tomorrow.*full image"),
        start(needs=("tensorflow_of_tomorrow",)).place(),
    ):
        pass


def test_a_process_that_does_not_start_is_no_endless_wait(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    """It is tried twice; the log has what it said."""
    explaining = start(command=[sys.executable, "-c", "raise SystemExit('no such thing')"])
    with pytest.raises(InferenceFailed, match="does not start"):
        ask(explaining)
    assert "no such thing" in caplog.text


def test_a_version_that_was_tampered_with_is_not_opened(start: Start, registry: Registry, tmp_path: Path) -> None:
    """A SavedModel is a program: its hashes are checked first."""
    version = add_version(registry)
    (tmp_path / "store" / "shapes" / str(version) / "golden" / "0.png").write_bytes(b"another")
    explaining = start()
    question = explaining.question(method="layers", model="shapes", version=version)
    with pytest.raises(VersionRefused):
        explaining.ask(question, deadline=time.monotonic() + 30)


def test_a_long_path_or_a_cache_that_others_may_write_to_is_no_hindrance(start: Start, tmp_path: Path) -> None:
    """Names of sockets are short; and who may write to a folder could put a socket of his own there."""
    ask(start(tmp_path / ("long" * 30)))
    shared = tmp_path / "shared"
    (shared / "cache").mkdir(parents=True)
    (shared / "cache").chmod(0o777)
    ask(start(shared))
    assert not [*(shared / "cache").iterdir()]
