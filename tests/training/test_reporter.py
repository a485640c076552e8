"""What a trainer tells, and when it hears that it is to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from app.jobs.folder import JobFolder
from app.training.reporter import Cancelled, Reporter


@pytest.fixture
def job(tmp_path: Path) -> JobFolder:
    return JobFolder(tmp_path)


@pytest.mark.parametrize("phase", ["dataset", "fit", "evaluate"])
def test_job_is_cancelled_until_the_export(job: JobFolder, phase: Literal["dataset", "fit", "evaluate"]) -> None:
    """In the phases in which no version comes into being the marker ends the work."""
    job.request_cancel()
    with pytest.raises(Cancelled):
        Reporter(job, 1).phase(phase, "")


@pytest.mark.parametrize("phase", ["export", "register", "promote"])
def test_job_is_not_cancelled_from_the_export_on(
    job: JobFolder, phase: Literal["export", "register", "promote"]
) -> None:
    """A version that is about to be registered is finished."""
    job.request_cancel()
    Reporter(job, 1).phase(phase, "")
    assert job.export_begun


def test_attempt_after_one_that_exported_is_not_cancelled(job: JobFolder) -> None:
    """The version may be there already, whatever phase the next attempt begins with: it goes through to the end."""
    Reporter(job, 1).phase("export", "")
    job.request_cancel()
    resumed = Reporter(job, 2)
    resumed.phase("dataset", "")
    resumed.check_cancelled(at_once=True)
    assert [line.phase for line in job.progress()] == ["export", "dataset"]
