"""A supervisor in a process of its own, to be killed: `python -m tests.jobs.supervisor_process FOLDER_OF_JOBS`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from app.jobs.jobs import Jobs
from app.jobs.supervisor import Supervisor
from tests.jobs.conftest import local_process

if __name__ == "__main__":
    Supervisor(Jobs(Path(sys.argv[1])), local_process(), poll=0.05).run(threading.Event())
