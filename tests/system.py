"""Programs that some tests need."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def require_tool(name: str) -> str:
    """Path of a program. Without it the test is skipped, but fails in CI, which must have them all."""
    path = shutil.which(name)
    if path is not None:
        return path
    # Debian puts daemons where only root's PATH looks.
    path = shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    return path if path is not None else missing(name)


def missing(name: str) -> NoReturn:
    """Skip the test for lack of `name`; in CI, fail it."""
    message = f"{name} is not installed"
    if os.environ.get("CI") == "true":
        pytest.fail(f"{message}, and CI must have it: .ci/run installs it")
    pytest.skip(message)
