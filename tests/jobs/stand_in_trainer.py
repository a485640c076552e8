"""A trainer that keeps the contract of `python -m app.training` and trains nothing. Run as a program.

What it does is told by the environment: STAND_IN_EPOCHS, STAND_IN_SECONDS (an epoch),
STAND_IN_DIE (`at_start`: before it takes the job; `in_first_epoch`), STAND_IN_DEAF (sees
neither marker nor SIGTERM), STAND_IN_LINGER (does not exit when done),
STAND_IN_HOLD_AFTER (in its first attempt it waits, after this epoch, for a file `go` beside the jobs),
STAND_IN_HOLD_EXPORT (it waits for that file when it has begun to export).
Each run adds a line to `runs.txt` in the folder of jobs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from app.jobs.folder import FINAL, JobFolder, JobResult, Progress, now


def main() -> int:
    job = JobFolder(Path(sys.argv[1]))
    epochs = int(os.environ.get("STAND_IN_EPOCHS", "2"))
    seconds = float(os.environ.get("STAND_IN_SECONDS", "0"))
    die = os.environ.get("STAND_IN_DIE", "")
    deaf = bool(os.environ.get("STAND_IN_DEAF"))
    hold_after = int(os.environ.get("STAND_IN_HOLD_AFTER", "0"))
    if deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(f"trainer {os.getpid()} here", flush=True)
    if die == "at_start":
        print("No module named tensorflow", flush=True)
        return 1
    with job.hold() as held:
        if not held:
            return 3
        state = job.state()
        if state.state in FINAL:
            return 0
        with (job.path.parent / "runs.txt").open("a") as runs:
            runs.write(f"{job.id}\n")
        state = state.model_copy(
            update={"state": "running", "attempt": state.attempt + 1, "started_at": state.started_at or now()}
        )
        job.write_state(state)
        checkpoint = job.path / "checkpoint"
        begin = int(checkpoint.read_text()) if checkpoint.exists() else 0
        for epoch in range(begin + 1, epochs + 1):
            if die == "in_first_epoch":
                os.kill(os.getpid(), signal.SIGKILL)
            until = time.monotonic() + (300 if deaf else seconds)  # nobody is left to end it where a test failed
            while time.monotonic() < until:
                if job.cancel_requested and not deaf:
                    job.write_state(
                        state.model_copy(update={"state": "cancelled", "finished_at": now(), "reason": "On request."})
                    )
                    return 0
                time.sleep(0.02)
            checkpoint.write_text(str(epoch))
            job.append(Progress(at=now(), attempt=state.attempt, phase="fit", epoch=epoch, epochs=epochs))
            while epoch == hold_after and state.attempt == 1 and not (job.path.parent / "go").exists():
                time.sleep(0.02)
        job.append(Progress(at=now(), attempt=state.attempt, phase="export"))
        while os.environ.get("STAND_IN_HOLD_EXPORT") and not (job.path.parent / "go").exists():
            time.sleep(0.02)
        job.write_result(
            JobResult(model=job.spec().model_name, version=7, metrics={}, promoted=False, promotion_reason="manual")
        )
        job.write_state(state.model_copy(update={"state": "succeeded", "finished_at": now()}))
    if os.environ.get("STAND_IN_LINGER"):
        time.sleep(600)
    return 0


if __name__ == "__main__":
    sys.exit(main())
