"""The executor on Ray: nothing is run twice or lost, whatever Ray says, forgets, or does not say at all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain, repeat
from pathlib import Path

import httpx
import pytest

from app.errors import ConfigurationError
from app.jobs.executors import ray_job
from app.jobs.executors.base import Exit
from app.jobs.executors.local_process import LocalProcess
from app.jobs.executors.own_place import OwnPlaceFirst
from app.jobs.executors.patient import Patient
from app.jobs.executors.ray_job import RayJob
from app.jobs.folder import JobFolder, Placement, now
from app.jobs.jobs import Jobs
from app.jobs.spec import Resources, TrainingSpec
from app.jobs.trials import SearchDocument, trial_folders
from tests.jobs.conftest import SPEC, supervise, wait_for, wait_until
from tests.jobs.executors.conftest import MakeRay
from tests.jobs.executors.ray_cluster import RayCluster
from tests.training.toy_trials import search_run, searching_job

Answer = httpx.Response | Exception


class Ray:
    """A Ray that answers as it is told, and remembers what it was asked."""

    def __init__(self, *, submit: Answer | None = None, status: Iterator[Answer] | Answer | None = None) -> None:
        """Without a word it takes every submission, and has all of them wait."""
        self._submit = submit or httpx.Response(200, json={})
        answer = status or _status("PENDING")
        self._status: Iterator[Answer] = repeat(answer) if isinstance(answer, httpx.Response | Exception) else answer
        self.submitted: list[dict[str, object]] = []
        self.stopped: list[str] = []
        self.asked = 0
        self.tokens: set[str | None] = set()

    def executor(self, environment: dict[str, str] | None = None, cpus: int = 1, pace: float = 0) -> RayJob:
        """An executor that knows no other cluster."""
        return RayJob(
            "http://head:8265", environment or {}, cpus=cpus, pace=pace, transport=httpx.MockTransport(self._answer)
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.tokens.add(request.headers.get("authorization"))
        if request.method == "GET":
            self.asked += 1
            answer = next(self._status)
        elif request.url.path.endswith("/stop"):
            self.stopped.append(request.url.path.split("/")[-2])
            answer = httpx.Response(200, json={"stopped": True})
        else:
            self.submitted.append(json.loads(request.content))
            answer = self._submit
        if isinstance(answer, Exception):
            raise answer
        return answer


def _status(status: str, **more: object) -> httpx.Response:
    return httpx.Response(200, json={"status": status, "type": "SUBMISSION", "driver_info": None, **more})


UNREACHABLE = httpx.ConnectError("connection refused")


def test_trials_of_a_search_run_beside_each_other_on_the_cluster(jobs: Jobs, make_ray: MakeRay) -> None:
    """The first has the job's own place, the next is a submission, which Ray places; the best comes of them all."""
    job = searching_job(jobs.root.parent, trials=3, parallel=3, pruning=False)
    module = "tests.training.toy_trials"
    here = LocalProcess({}, command=(sys.executable, "-m", module), lowest_priority=False)
    launcher = OwnPlaceFirst(here, Patient(make_ray(capacity=2, module=module), print), patience=60)
    chosen = search_run(job, launcher, poll=0.1).run()
    trials = SearchDocument.of(job).trials
    assert [trial.state for trial in trials] == ["complete"] * 3
    assert chosen.learning_rate in [trial.values["learning_rate"] for trial in trials]
    # The third is sent after the second: by then the first may be done.
    assert [folder.placement() is not None for folder in trial_folders(job)][:2] == [False, True]
    assert sorted((job.path / "runs.txt").read_text().split()) == ["1", "2", "3"]
    assert [folder.state().attempt for folder in trial_folders(job)] == [1, 1, 1]


def test_node_that_dies_costs_its_job_nothing_but_the_time_since_its_checkpoint(
    jobs: Jobs, cluster: RayCluster, make_ray: MakeRay
) -> None:
    """A job whose node Ray has given up is left alone while its trainer lives, and then goes on on another node."""
    executor = make_ray(capacity=2, epochs="4", hold_after="2")
    queue = [jobs.submit(SPEC), jobs.submit(SPEC)]
    with supervise(jobs, executor):
        for job in queue:
            wait_until(lambda job=job: jobs.document(job.id).epoch == 2, "two epochs on each node")  # type: ignore[misc]
        trainers = {cluster.node_of(job.holder or 0): job for job in queue}
        assert trainers.keys() == {0, 1}, "Ray has put them on different nodes"
        moved = trainers[1]
        placed = moved.placement()
        assert placed is not None

        # The node is cut off: nothing of Ray is left there, but the trainer goes on.
        trainer = moved.holder or 0
        cluster.kill(1, sparing=trainer)
        wait_until(lambda: _known(cluster, placed.submission) == "FAILED", "Ray to give the node up")
        assert executor.alive(moved)
        assert moved.placement() == placed, "it was submitted again beside the living trainer"
        assert moved.state().attempt == 1

        # Now the node has lost its power. The only core that is left is taken.
        os.kill(trainer, signal.SIGKILL)
        wait_until(lambda: "waiting at Ray for 1 core" in (jobs.document(moved.id).message or ""), "a place")
        wait_until(lambda: make_ray().alive(moved), "another process to see it wait")
        (jobs.root / "go").touch()
        wait_for(moved, "succeeded")
        wait_for(trainers[0], "succeeded")
    document = jobs.document(moved.id)
    assert document.attempt == 2
    assert [(line.epoch, line.attempt) for line in document.history] == [(1, 1), (2, 1), (3, 2), (4, 2)]
    assert trainers[0].state().attempt == 1
    assert "trainer " in jobs.log(moved.id)


def test_spec_says_what_ray_sets_aside(jobs: Jobs) -> None:
    """Cores, GPUs and memory are asked for, and the trainer is kept to them."""
    ray = Ray()
    spec = TrainingSpec(dataset="digits", resources=Resources(cpus=4, gpus=0.5, memory_gb=6))
    job = jobs.submit(spec)
    ray.executor({"FOVEA_TRAINING_THREADS": "64", "FOVEA_WORKSPACE": "/data"}).launch(job)
    [request] = ray.submitted
    assert request["entrypoint_num_cpus"] == 4
    assert request["entrypoint_num_gpus"] == 0.5
    assert request["entrypoint_memory"] == 6_000_000_000
    assert request["runtime_env"] == {
        "env_vars": {
            "FOVEA_WORKSPACE": "/data",
            "FOVEA_TRAINING_THREADS": "4",
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        }
    }
    message = jobs.document(job.id).message
    assert message == f"waiting at Ray for 4 cores, 0.5 GPU, 6 GB of memory, as {request['submission_id']}"


def test_job_that_asks_for_nothing_gets_the_cores_of_the_settings_and_sees_no_gpu(jobs: Jobs) -> None:
    """What was not asked for is not used: Ray counts on it for others."""
    ray = Ray()
    job = jobs.submit(SPEC)
    ray.executor(cpus=3).launch(job)
    [request] = ray.submitted
    assert (request["entrypoint_num_cpus"], request["entrypoint_num_gpus"], request["entrypoint_memory"]) == (3, 0, 0)
    assert request["runtime_env"] == {"env_vars": {"FOVEA_TRAINING_THREADS": "3", "CUDA_VISIBLE_DEVICES": ""}}
    folder = job.path.resolve()
    assert request["entrypoint"] == f"exec python -m app.training {folder} >> {folder}/log.txt 2>&1"


def test_share_of_several_gpus_is_refused() -> None:
    """Ray gives shares of one GPU, or whole ones."""
    with pytest.raises(ValueError, match=r"gpus: 1\.5 is not allowed: a share below 1, or a whole number"):
        Resources(gpus=1.5)


def test_ray_that_does_not_answer_is_not_taken_for_a_dead_trainer(jobs: Jobs, caplog: pytest.LogCaptureFixture) -> None:
    """While Ray cannot be reached a job waits as it is, and goes on when Ray is back."""
    job = jobs.submit(SPEC)
    ray = Ray(status=chain([_status("PENDING")], repeat(UNREACHABLE, 3), repeat(_status("PENDING"))))
    said = "Ray at http://head:8265 cannot be reached (connection refused)."
    with supervise(jobs, ray.executor()):
        wait_until(lambda: said in caplog.text, "the trouble to be told")
        asked = ray.asked
        wait_until(lambda: ray.asked > asked + 5, "Ray to be asked again")
    assert len(ray.submitted) == 1
    assert job.state().state == "queued"


def test_ray_that_is_away_is_asked_about_one_job_and_not_about_each(jobs: Jobs) -> None:
    """A supervisor that waited for every job's answer could not be stopped for minutes."""
    ray = Ray(status=UNREACHABLE)
    executor = ray.executor(pace=60)
    for job in [jobs.submit(SPEC) for _ in range(3)]:
        _place(job)
        with pytest.raises(ConnectionError, match="cannot be reached"):
            executor.alive(job)
    assert ray.asked == 1


def test_job_that_waits_is_asked_about_once_in_a_while(jobs: Jobs) -> None:
    """And not at every look of the supervisor."""
    job = jobs.submit(SPEC)
    _place(job)
    ray = Ray()
    executor = ray.executor(pace=60)
    assert all(executor.alive(job) for _ in range(10))
    assert ray.asked == 1


def test_submission_waits_for_a_ray_that_is_away(jobs: Jobs) -> None:
    """A job that cannot be sent now is sent later, and is not held to have been tried."""
    job = jobs.submit(SPEC)
    ray = Ray(submit=UNREACHABLE, status=chain([UNREACHABLE], repeat(httpx.Response(404))))
    with supervise(jobs, ray.executor()):
        wait_until(lambda: len(ray.submitted) >= 5, "tries")
    assert job.state().state == "queued"
    assert job.state().attempt == 0


def test_submission_whose_answer_was_lost_is_not_made_twice(jobs: Jobs) -> None:
    """What Ray took without being heard is found again, by the name that was noted before."""
    job = jobs.submit(SPEC)
    ray = Ray(submit=httpx.ReadTimeout("timed out"))
    executor = ray.executor()
    with suppress(OSError):
        executor.launch(job)
    assert executor.alive(job)
    restarted = Ray()
    with supervise(jobs, restarted.executor()):
        wait_until(lambda: restarted.asked > 2, "looks of a server that has just started")
    assert len(ray.submitted) == 1
    assert restarted.submitted == []


def test_job_that_ray_let_wait_for_too_long_is_submitted_again(jobs: Jobs) -> None:
    """Ray's own patience with its queue ends after a quarter of an hour; ours does not."""
    job = jobs.submit(SPEC)
    given_up = _status("FAILED", error_type="JOB_SUPERVISOR_ACTOR_START_TIMEOUT", message="Job supervisor actor …")
    ray = Ray(status=chain([_status("PENDING"), given_up], repeat(_status("PENDING"))))
    with supervise(jobs, ray.executor()):
        wait_until(lambda: len(ray.submitted) == 2, "another submission")
    assert job.state().attempt == 0
    assert len({str(request["submission_id"]) for request in ray.submitted}) == 2


def test_job_that_a_new_cluster_does_not_know_is_submitted_again(jobs: Jobs) -> None:
    """A cluster that was set up anew has forgotten its submissions."""
    job = jobs.submit(SPEC)
    ray = Ray(status=chain([httpx.Response(404)], repeat(_status("PENDING"))))
    with supervise(jobs, ray.executor()):
        wait_until(lambda: len(ray.submitted) == 2, "another submission")
    assert job.state().attempt == 0


def test_what_ray_refuses_for_good_fails_the_job(jobs: Jobs) -> None:
    """A request that Ray finds wrong is not sent for ever; the reason is Ray's."""
    job = jobs.submit(SPEC)
    ray = Ray(submit=httpx.Response(400, text="Traceback …\nValueError: entrypoint_memory must be an integer\n"))
    with supervise(jobs, ray.executor()):
        wait_for(job, "failed")
    assert job.state().reason == "Ray refused the training job: ValueError: entrypoint_memory must be an integer"


@pytest.mark.parametrize(
    ("answer", "ending"),
    [
        (_status("SUCCEEDED", driver_exit_code=0), Exit("ended with exit status 0")),
        (_status("FAILED", driver_exit_code=-9), Exit("was killed by SIGKILL (perhaps out of memory)")),
        (_status("FAILED", driver_exit_code=3), Exit("found the job taken", refused=True)),
        (_status("STOPPED"), Exit("was stopped at Ray")),
        (
            _status("FAILED", driver_exit_code=1, message="failed, last logs:\nRunning entrypoint for job x: exec y\n"),
            Exit("ended with exit status 1"),
        ),
        (
            _status("FAILED", driver_exit_code=2, message="failed\n/bin/sh: 1: cannot create /data/log.txt\n"),
            Exit("ended with exit status 2 (/bin/sh: 1: cannot create /data/log.txt)"),
        ),
        (
            _status("FAILED", message="Job supervisor actor died: its node has died.\nMore"),
            Exit("was lost by Ray (Job supervisor actor died: its node has died.)"),
        ),
    ],
)
def test_ending_is_told_in_the_words_of_all_executors(jobs: Jobs, answer: httpx.Response, ending: Exit) -> None:
    """Exit statuses and signals mean what they mean on this machine; the rest is Ray's to say."""
    job = jobs.submit(SPEC)
    executor = Ray(status=answer).executor()
    executor.launch(job)
    assert not executor.alive(job)
    assert executor.collect(job) == ending
    assert executor.collect(job) is None


def test_trainer_of_another_process_is_stopped_once(jobs: Jobs) -> None:
    """Ray is asked to end what another process submitted, and not again each time: it sees to the rest by itself."""
    job = jobs.submit(SPEC)
    _place(job)
    ray = Ray()
    executor = ray.executor()
    assert executor.alive(job)
    for force in (False, True, True):
        executor.end(job, force=force)
    assert ray.stopped == ["known-1"]


def test_only_the_last_submissions_that_ended_are_remembered(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those Ray is asked no more; a server that runs for months does not remember all that there ever were."""
    monkeypatch.setattr(ray_job, "_REMEMBERED", 2)
    ray = Ray(status=_status("SUCCEEDED"))
    executor = ray.executor()
    queue = [jobs.submit(SPEC) for _ in range(3)]
    for number, job in enumerate(queue):
        _place(job, f"known-{number}")
    for job in [*queue, *reversed(queue)]:
        assert not executor.alive(job)
        executor.end(job, force=True)
    # The last two are known still; the first one is asked about, and stopped, a second time.
    assert ray.asked == 4
    assert ray.stopped == ["known-0", "known-1", "known-2", "known-0"]


def test_held_job_has_a_trainer_whatever_ray_says(jobs: Jobs) -> None:
    """The lock decides: Ray loses sight of nodes that live."""
    job = jobs.submit(SPEC)
    _place(job)
    with job.hold():
        assert Ray(status=_status("FAILED")).executor().alive(job)
        assert Ray(status=UNREACHABLE).executor().alive(job)
    assert not Ray(status=_status("FAILED")).executor().alive(job)


def test_trainer_that_takes_its_job_while_ray_gives_it_up_is_seen(jobs: Jobs) -> None:
    """Ray's last word comes after a look at the lock; it is looked at once more."""
    job = jobs.submit(SPEC)
    _place(job)
    with ExitStack() as stack:

        def given_up() -> Iterator[Answer]:
            stack.enter_context(job.hold())
            yield _status("FAILED")

        assert Ray(status=given_up()).executor().alive(job)


def test_wrong_token_is_named(jobs: Jobs) -> None:
    """Who is not let in learns by which variable."""
    with pytest.raises(PermissionError, match="set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH"):
        Ray(submit=httpx.Response(401)).executor().launch(jobs.submit(SPEC))


def test_something_else_at_the_address_is_named(jobs: Jobs) -> None:
    """A page where Ray should be says nothing about a trainer."""
    job = jobs.submit(SPEC)
    _place(job)
    with pytest.raises(ConnectionError, match="answered something else than a job"):
        Ray(status=httpx.Response(200, text="<html>")).executor().alive(job)


def test_trial_is_named_after_its_job(jobs: Jobs) -> None:
    """In Ray's dashboard numbers alone would say nothing."""
    job = jobs.submit(SPEC)
    trial = JobFolder(job.path / "trials" / "0007")
    shutil.copytree(job.path, trial.path)
    ray = Ray()
    ray.executor().launch(trial)
    assert str(ray.submitted[0]["submission_id"]).startswith(f"{job.id}-0007-1-")


@pytest.mark.parametrize("variable", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"])
def test_token_is_taken_from_where_rays_own_programs_take_it(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """As it is, from a file, or from the file that Ray makes for a user; no variable of the trainer, and so the
    dashboard, has it."""
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("s3cret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    values = {"RAY_AUTH_TOKEN": "s3cret", "RAY_AUTH_TOKEN_PATH": str(file), "RAY_AUTH_MODE": "token"}
    monkeypatch.setenv(variable, values[variable])
    ray = Ray()
    ray.executor().launch(jobs.submit(SPEC))
    assert ray.tokens == {"Bearer s3cret"}
    assert "s3cret" not in json.dumps(ray.submitted)


def test_token_that_cannot_be_read_is_said_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the first job comes."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/nonexistent/token")
    with pytest.raises(ConfigurationError, match="/nonexistent/token, cannot be read"):
        Ray().executor()


def _known(cluster: RayCluster, submission: str) -> str:
    """What Ray says of a submission."""
    answer = httpx.get(
        f"{cluster.address}/api/jobs/{submission}", headers={"Authorization": f"Bearer {cluster.token}"}, timeout=30
    )
    return str(answer.json()["status"])


def _place(job: JobFolder, submission: str = "known-1") -> None:
    job.write_placement(Placement(scheduler="Ray", submission=submission, attempt=1, asked_for="1 core", at=now()))
