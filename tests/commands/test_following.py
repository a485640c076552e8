"""What the terminal shows of a job that is followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.commands.backends import News
from app.commands.following import follow, showing
from app.jobs.document import JobDocument
from app.jobs.folder import JobFolder, JobState, Placement, Progress, now
from app.jobs.jobs import Jobs
from app.jobs.spec import TrainingSpec


def _sent(job: JobFolder, attempt: int) -> JobDocument:
    job.write_placement(
        Placement(scheduler="Ray", submission=f"j-{attempt}", attempt=attempt, asked_for="4 cores", at=now())
    )
    return JobDocument.of(job)


def test_job_that_waits_says_how_many_go_before_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each time that the number has changed, and not again while it has not."""
    jobs = Jobs(tmp_path)
    others = [jobs.submit(TrainingSpec(dataset="digits")) for _ in range(2)]
    job = jobs.submit(TrainingSpec(dataset="digits"))
    told = [jobs.document(job.id), jobs.document(job.id)]
    for other in others:
        jobs.cancel(other.id)
        told.append(jobs.document(job.id))
    with showing() as view:
        follow(map(News, told), view)
    assert capsys.readouterr().out.splitlines() == [
        "waiting for its turn: 2 jobs before it",
        "waiting for its turn: 1 job before it",
        "waiting for its turn",
    ]


def test_every_line_of_progress_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However many there are between two looks, and where a look shows again what another has shown."""
    job = Jobs(tmp_path).submit(TrainingSpec(dataset="digits"))
    job.write_state(JobState(state="running", attempt=1, submitted_at=now(), started_at=now()))
    job.append(Progress(at=now(), attempt=1, phase="search", message="trial 1 of 2 begins"))
    job.append(Progress(at=now(), attempt=1, phase="search", message="trial 1 of 2: 0.9", remaining_seconds=60))
    job.append(Progress(at=now(), attempt=1, phase="dataset", message="20 images"))
    job.append(Progress(at=now(), attempt=1, phase="fit", message="simple_cnn with 7 parameters"))
    first = News(JobDocument.of(job), job.progress_after(0))
    job.append(Progress(at=now(), attempt=1, phase="fit", message="epoch 1/2: step 3 of 9", step=3, steps=9))
    job.append(Progress(at=now(), attempt=1, phase="fit", message="epoch 1/2: …", epoch=1, epochs=2))
    job.append(Progress(at=now(), attempt=1, phase="evaluate"))
    with showing() as view:
        follow([first, News(JobDocument.of(job), job.progress_after(0))], view)
    assert capsys.readouterr().out.splitlines() == [
        "trial 1 of 2 begins",
        "trial 1 of 2: 0.9; 1 min 0 s left",
        "dataset: 20 images",
        "fit: simple_cnn with 7 parameters",
        "epoch 1/2: step 3 of 9",
        "epoch 1/2",
        "evaluate",
    ]


def test_job_that_waits_at_a_cluster_says_so_at_its_start_and_when_it_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between two attempts a job waits as it did before the first; nothing is said twice."""
    job = Jobs(tmp_path).submit(TrainingSpec(dataset="digits"))
    documents = [JobDocument.of(job), _sent(job, 1), _sent(job, 1)]
    job.write_state(JobState(state="running", attempt=1, submitted_at=now(), started_at=now()))
    job.append(Progress(at=now(), attempt=1, phase="fit", epoch=1, epochs=2))
    documents += [JobDocument.of(job), _sent(job, 2)]
    with showing() as view:
        seen = [[], [], [], job.progress_after(0), []]
        follow([News(document, lines) for document, lines in zip(documents, seen, strict=True)], view)
    assert capsys.readouterr().out.splitlines() == [
        "waiting for its turn",
        "waiting at Ray for 4 cores, as j-1",
        "epoch 1/2",
        "waiting at Ray for 4 cores, as j-2",
    ]
