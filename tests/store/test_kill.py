"""Whenever a process is killed, the store is as it was before or as it was to be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest

from app.errors import ModelNotFound
from app.store.registry import Registry
from tests.store.kill_points import ACKNOWLEDGED, IDLE, MOST
from tests.store.versions import add_version
from tests.system import require_tool

# More stores than any action has points to be killed at.
_STORES = 200

both_ways = pytest.mark.parametrize("how", ["strace", "audit"])


@both_ways
def test_a_first_version_is_registered_whole_or_not_at_all(how: str, tmp_path: Path) -> None:
    """Killing the registration of a model's first version at any call leaves no model or a whole version."""
    outcomes = set()
    for root, acknowledged in _kill_at_every_point(how, "register", tmp_path):
        registry = _restart(root)
        try:
            versions = registry.versions("cats")
        except ModelNotFound:
            versions = []
        assert versions in ([], [1])
        assert versions == [1] or not acknowledged
        for version in versions:
            registry.verify("cats", version)
        assert add_version(registry) == len(versions) + 1
        outcomes.add(len(versions))
    assert outcomes == {0, 1}


@both_ways
def test_a_further_version_is_registered_whole_or_not_at_all(how: str, tmp_path: Path) -> None:
    """Killing a registration at any call never touches the versions before, nor what is production."""
    outcomes = set()
    for root, acknowledged in _kill_at_every_point(how, "register", tmp_path, _two_versions(tmp_path)):
        registry = _restart(root)
        versions = registry.versions("cats")
        assert versions in ([1, 2], [1, 2, 3])
        assert 3 in versions or not acknowledged
        for version in versions:
            registry.verify("cats", version)
        assert _production(registry) == 1
        outcomes.add(len(versions))
    assert outcomes == {2, 3}


@both_ways
def test_a_promotion_happens_whole_or_not_at_all(how: str, tmp_path: Path) -> None:
    """Killing a promotion at any call leaves the old production version or the new one, and a log that goes on."""
    outcomes = set()
    for root, acknowledged in _kill_at_every_point(how, "promote", tmp_path, _two_versions(tmp_path)):
        registry = _restart(root)
        assert [entry.version for entry in registry.promotions("cats")] in ([1], [1, 2])
        assert _production(registry) == 2 or not acknowledged
        outcomes.add(_production(registry))
        assert registry.promote("cats", 2, by="test").sequence == 2
    assert outcomes == {1, 2}


@both_ways
def test_a_rollback_happens_whole_or_not_at_all(how: str, tmp_path: Path) -> None:
    """Killing a rollback at any call leaves the old production version or the one before."""
    template = _two_versions(tmp_path)
    Registry(template).promote("cats", 2, by="test")
    outcomes = set()
    for root, acknowledged in _kill_at_every_point(how, "rollback", tmp_path, template):
        registry = _restart(root)
        assert [entry.version for entry in registry.promotions("cats")] in ([1, 2], [1, 2, 1])
        assert _production(registry) == 1 or not acknowledged
        outcomes.add(_production(registry))
    assert outcomes == {1, 2}


def _restart(root: Path) -> Registry:
    """What every process does at start; after it there is no debris."""
    registry = Registry(root)
    registry.clean()
    staging = root / ".staging"
    assert not staging.exists() or list(staging.iterdir()) == []
    return registry


def _production(registry: Registry) -> int:
    entry = registry.production("cats")
    assert entry is not None
    return entry.version


def _two_versions(tmp_path: Path) -> Path:
    """A store with versions 1 and 2, of which 1 is production."""
    template = tmp_path / "template"
    registry = Registry(template)
    add_version(registry)
    add_version(registry)
    registry.promote("cats", 1, by="test")
    return template


def _kill_at_every_point(
    how: str, action: str, tmp_path: Path, template: Path | None = None
) -> Iterator[tuple[Path, bool]]:
    """Stores as the kills left them, and whether the action had returned before its process died."""
    stores = tmp_path / "stores"
    stores.mkdir()
    if template is not None:
        for number in range(_STORES):
            shutil.copytree(template, stores / str(number))
    command = [sys.executable, "-m", "tests.store.kill_points", how, action, str(stores)]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # a process that forks should have one thread
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        pid = program.stdout.readline().split()[1]
        with _strace(pid) if how == "strace" else nullcontext():
            output, _ = program.communicate("go\n", timeout=120)
    assert program.returncode == 0
    kills: dict[str, int] = json.loads(output)
    # That calls of which there is exactly one killed exactly once shows that the counting is right.
    assert how == "audit" or kills["rename" if action == "register" else "link"] == 1
    used = sum(kills.values()) + len(kills)
    assert 10 < used <= _STORES
    for number in range(used):
        yield stores / str(number), (stores / f"{number}.{ACKNOWLEDGED}").exists()


@contextmanager
def _strace(pid: str) -> Iterator[None]:
    """Have every process below `pid` killed at its call number MOST of each kind."""
    calls = ",".join(f"?{call}" for call in IDLE)
    command = [require_tool("strace"), "-f", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={MOST}"]
    with subprocess.Popen([*command, "-o", os.devnull, "-p", pid], stderr=subprocess.PIPE, text=True) as tracer:
        assert tracer.stderr is not None
        first = tracer.stderr.readline()
        if "attached" not in first:
            if os.environ.get("CI") == "true":
                pytest.fail(f"strace may not trace here, and in CI it must: {first}")
            pytest.skip(f"strace may not trace here: {first}")
        yield
        # It ends with the process it traces.
        tracer.communicate(timeout=60)
