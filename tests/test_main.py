"""Wiring: what an application needs, and what it must not drag in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import ConfigurationError
from app.main import create_app
from app.settings import Settings


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_http_floor_knows_no_tensorflow(tmp_path: Path) -> None:
    """An application with the fake runtime loads neither TensorFlow nor OpenVINO, nor anything of training."""
    out = run(
        "import sys; from pathlib import Path\n"
        "from app.main import create_app; from app.settings import Settings\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "app = create_app(Settings(runtime='fake', model_store=folder, workspace=folder))\n"
        "app.openapi()\n"
        "heavy = ('tensorflow', 'keras', 'openvino', 'sklearn', 'matplotlib', 'app.training')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    assert out.strip() == "[]"


def test_nothing_is_built_at_import() -> None:
    """Importing the wiring reads no settings, starts no thread and does not decide how metrics are kept."""
    out = run(
        "import sys, threading, app.main\n"
        "print('prometheus_client' in sys.modules, threading.active_count(),\n"
        "      [name for name, value in vars(app.main).items() if type(value).__name__ in ('Application', 'Settings')])"
    )
    assert out.strip() == "False 1 []"


def test_open_address_without_keys_is_no_application() -> None:
    """Settings that must not start make no application either, whoever would serve it."""
    with pytest.raises(ConfigurationError, match="FOVEA_API_KEYS"):
        create_app(Settings(host="0.0.0.0"))


def test_applications_are_independent(tmp_path: Path) -> None:
    """Two applications in one process share nothing."""
    first, second = (
        create_app(Settings(runtime="fake", model_store=tmp_path / name, workspace=tmp_path / name)) for name in "ab"
    )
    assert first.state.services is not second.state.services
    assert first.state.services.metrics is not second.state.services.metrics
