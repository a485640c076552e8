"""A real search: trials train networks, each in a process of its own, and the best becomes a version."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from app.jobs.trials import SearchDocument, trial_folders
from app.store.registry import Registry
from app.training.trial import without_test


def test_a_search_over_shapes_ends_with_a_version_of_its_best_trial(
    submit: Any, workspace: Path, tmp_path: Path
) -> None:
    """Two trials side by side, of which one cannot learn; the version is made of the other one, and tells of both."""
    search = {"method": "grid", "space": {"learning_rate": [1e-9, 0.003]}, "epochs": 3, "parallel": 2}
    architecture = {"name": "simple_cnn", "filters": [8], "dense_units": 16}
    job = submit(
        dataset="shapes", shapes={"images": 150}, batch_size=16, epochs=4, architecture=architecture, search=search
    )
    store = tmp_path / "store"
    environment = {**os.environ, "FOVEA_MODEL_STORE": str(store), "FOVEA_WORKSPACE": str(workspace)}
    with (job.path / "log.txt").open("ab") as log:
        done = subprocess.run(
            [sys.executable, "-m", "app.training", str(job.path)], env=environment, stdout=log, stderr=log, timeout=200
        )
    assert done.returncode == 0, (job.path / "log.txt").read_text()
    document = SearchDocument.of(job)
    assert [trial.state for trial in document.trials] == ["complete", "complete"]
    assert document.best is not None
    assert document.trials[document.best - 1].values == {"learning_rate": 0.003}
    for trial in trial_folders(job):
        assert {line.phase for line in trial.progress()} == {"dataset", "fit"}
        assert not (trial.path / "checkpoint").exists()
    registry = Registry(store)
    trained = registry.manifest("shapes", 1).training_spec
    assert trained is not None
    assert (trained["learning_rate"], trained["epochs"], trained["search"]) == (0.003, 4, None)
    evaluation = store / "shapes" / "1" / "evaluation"
    report = json.loads((evaluation / "report.json").read_text())
    assert report["search"]["best"] == document.best
    assert "2 trials by the method grid" in (evaluation / "report.html").read_text()
    assert (evaluation / "search.svg").is_file()
    registry.verify("shapes", 1)


def test_a_trial_has_no_test_split(shapes: Any) -> None:
    """What a trial trains and validates on is what the job does; of the test split it has nothing."""
    _, data, _, _ = shapes()
    seen = without_test(data)
    assert len(data.test) > 0
    assert len(seen.test) == 0
    np.testing.assert_array_equal(seen.train, data.train)
    np.testing.assert_array_equal(seen.validation, data.validation)
