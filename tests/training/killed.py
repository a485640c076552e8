"""The trainer, gone the moment that it has told of a phase: a `kill -9` from outside comes too late for a short one."""

from __future__ import annotations

import os
import signal

import pytest

from app.training import __main__ as trainer
from app.training.reporter import Phase, Reporter


def main(arguments: list[str]) -> int:
    """Takes the phase and then the trainer's own arguments."""
    [last, *arguments] = arguments
    told = Reporter.phase

    def tell(self: Reporter, phase: Phase, message: str) -> None:
        told(self, phase, message)
        if phase == last:
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Reporter, "phase", tell)
        return trainer.main(arguments)
