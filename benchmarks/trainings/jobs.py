"""Training jobs run as users run them: `fovea train`, in a workspace of their own."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.jobs.folder import JobFolder
from app.jobs.spec import TrainingSpec
from app.store.registry import Registry
from benchmarks.places import REPOSITORY
from benchmarks.processes import Tree
from benchmarks.trainings.results import Run

_POLL_SECONDS = 0.1
_JOB = re.compile(r"^Job (\S+):", re.MULTILINE)


class JobFailed(Exception):
    """The job did not succeed; the text says what it said."""


def train(title: str, dataset: str, spec: Mapping[str, Any], folder: Path, *, group: Path | None = None) -> Run:
    """Have `fovea train` do a job in `folder`, and wait for it.

    Args:
        title: what the job is called in the table.
        dataset: a built-in one, or the path of a folder or archive, which is added first.
        spec: the fields that are not left to the recipe.
        folder: empty; for the workspace and the model store.
        group: control group that everything runs in.

    Raises:
        JobFailed: it ended otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps(dict(spec)))
    command = [sys.executable, "-m", "app.cli", "train", dataset, "--local", "--spec", str(folder / "spec.json")]
    if group is not None:
        command = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh", *command]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FOVEA_")}
    environment = {
        **kept,
        "PYTHONPATH": str(REPOSITORY),
        "FOVEA_WORKSPACE": str(folder / "workspace"),
        "FOVEA_MODEL_STORE": str(folder / "models"),
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }
    with Tree(command, environment, folder=REPOSITORY, log=folder / "log.txt") as tree:
        peak = 0
        while not tree.ended:
            peak = max(peak, *(_anonymous(process) for process in tree.processes()), 0)
            time.sleep(_POLL_SECONDS)
        said = (folder / "log.txt").read_text(errors="replace")
        if (found := _JOB.search(said)) is None:
            raise JobFailed(said[-2000:])
    run = finished(title, JobFolder(folder / "workspace" / "jobs" / found[1]), Registry(folder / "models"))
    return run.model_copy(update={"peak_bytes": peak})


def finished(title: str, job: JobFolder, registry: Registry) -> Run:
    """A job that has succeeded, by what it left behind.

    Raises:
        JobFailed: it has not.
    """
    state, result, progress = job.state(), job.result(), job.progress()
    if result is None or state.finished_at is None or state.state != "succeeded":
        raise JobFailed(f"the job {state.state}: {state.reason}")
    manifest = registry.manifest(result.model, result.version)
    # Epochs that a kill made to be done again count once, as they did for the result.
    epochs = {line.epoch: line for line in progress if line.epoch is not None}
    curve, spent = [], 0.0
    for line in epochs.values():
        spent += line.seconds or 0.0
        curve.append((spent, line.val_accuracy or 0.0))
    steps = [line.at for line in progress if line.step is not None or line.epoch is not None]
    counts = manifest.data.counts if manifest.data else {}
    spec = TrainingSpec.model_validate(manifest.training_spec)
    return Run(
        title=title,
        dataset=job.spec().dataset,
        network=spec.architecture.name if spec.architecture is not None else "",
        images=counts.get("train", 0),
        tested=counts.get("test", 0),
        epochs=len(epochs),
        to_first_step=(steps[0] - state.submitted_at).total_seconds() if steps else None,
        fitting=spent,
        seconds=(state.finished_at - state.submitted_at).total_seconds(),
        accuracy=result.metrics["accuracy"],
        low=result.metrics["accuracy_low"],
        high=result.metrics["accuracy_high"],
        peak_bytes=None,
        curve=curve,
    )


def _anonymous(process: int) -> int:
    """Bytes that the process holds and that are no file's; 0 where it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)
