"""docs/client.md and README.md: their examples run."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app import client
from app.client import asynchronous, synchronous
from app.jobs.executors.fake import Fake
from app.jobs.jobs import Jobs
from tests.jobs.conftest import supervise
from tests.server import Server
from tests.serving.versions import gray

_ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_ADDRESS = "http://127.0.0.1:8000"


def _blocks(document: str) -> list[str]:
    return _BLOCK.findall((_ROOT / document).read_text("utf-8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the examples speak of, in the present folder."""
    for name, level in (("cat.jpg", 0), ("dog.jpg", 255), ("photos/a.png", 0), ("photos/2026/b.png", 255)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(gray(level))
    (tmp_path / "photos" / "torn.jpg").write_bytes(b"no picture")
    for number in range(20):
        picture = tmp_path / "flowers" / ("rose" if number % 2 else "tulip") / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        picture.write_bytes(gray(10 * number))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trainer(server: Server) -> Iterator[None]:
    """Runs the server's jobs, in play."""
    with supervise(Jobs(server.folder / "workspace" / "jobs"), Fake(epochs=3)):
        yield


def test_every_example_runs(server: Server, folder: Path, trainer: None, capsys: pytest.CaptureFixture[str]) -> None:
    """One after another, each for itself, as a reader would; all of them print something."""
    examples = [*_blocks("docs/client.md"), *_blocks("README.md")]
    assert len(examples) > 8
    printed = []
    for number, example in enumerate(examples):
        assert _ADDRESS in example
        code = compile(example.replace(_ADDRESS, server.url), f"example {number}", "exec")
        exec(code, {"__name__": f"example_{number}"})
        printed.append(capsys.readouterr().out)
        assert printed[-1], example
    everything = "".join(printed)
    assert re.search(r"torn\.jpg failed: unsupported_image_format", everything)
    assert "missing.jpg False" in everything
    assert "{'rose': 10, 'tulip': 10}" in everything
    assert "fit 3 " in everything
    assert "model_not_found" in everything


def test_all_that_is_exported_is_documented() -> None:
    """Both clients, each of their methods, and every error are named in the document."""
    text = (_ROOT / "docs" / "client.md").read_text("utf-8")
    with client.Client() as made:
        for owner in (made, made.models, made.datasets, made.jobs):
            for name in dir(owner):
                assert name.startswith("_") or name == "close" or name in text
    for name in client.__all__:
        exported = getattr(client, name)
        if isinstance(exported, type) and issubclass(exported, Exception):
            assert f"`{name}`" in text
    assert "AsyncClient" in text


def test_both_clients_have_the_same_methods() -> None:
    """What one can do the other can, with the same arguments."""
    for name in ("Client", "Models", "Datasets", "Jobs"):
        one, other = getattr(synchronous, name), getattr(asynchronous, f"Async{name}")
        public = {method for method in vars(one) if not method.startswith("_")}
        assert public == {method for method in vars(other) if not method.startswith("_")}
        for method in [*public, "__init__"]:
            first, second = inspect.signature(getattr(one, method)), inspect.signature(getattr(other, method))
            if method != "__init__" or name == "Client":
                assert list(first.parameters.values()) == list(second.parameters.values()), method
