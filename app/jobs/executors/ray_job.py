"""Trainers on a Ray cluster, by its Jobs API: Ray queues them, and places them where there is what they ask for."""

from __future__ import annotations

import os
import secrets
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from app.errors import ConfigurationError, TrainingFailed
from app.jobs.executors.base import Exit
from app.jobs.folder import JobFolder, Placement, now
from app.jobs.spec import Resources

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Ray gives up on what waits for longer than RAY_JOB_START_TIMEOUT_SECONDS, by default a quarter of an hour.
_WAITED_TOO_LONG = "JOB_SUPERVISOR_ACTOR_START_TIMEOUT"
_UNFINISHED = ("PENDING", "RUNNING")
# What Ray's log of a submission has of its own; anything else there is the complaint of a shell that could not begin.
_RAYS_OWN = ("Running entrypoint for job", "Runtime env is setting up.")
_LONGEST_QUOTE = 300
# Submissions that have ended, or were told to, of which Ray is asked no more. A server runs for months.
_REMEMBERED = 1000


class _Submission(BaseModel):
    """What of Ray's answer about a submission matters here."""

    model_config = ConfigDict(frozen=True)

    status: str
    message: str | None = None
    error_type: str | None = None
    driver_exit_code: int | None = None


@dataclass(frozen=True)
class _Look:
    """What Ray said of a submission, and when."""

    at: float
    waits: bool


class RayJob:
    """Submits `python -m app.training JOB_FOLDER` to Ray, as often as the supervisor asks.

    Workspace and model store must be at the same paths on every node, on a file system that
    keeps `flock` locks across machines. Whether a job has a trainer is what its lock says, and
    only where it is free, what Ray says: so a trainer on a node that Ray has lost sight of is
    left to finish, and no other is started beside it. What Ray's name for a trainer is stands
    in the job's folder, so any process can ask about it or end it.
    """

    def __init__(
        self,
        address: str,
        environment: Mapping[str, str],
        *,
        command: Sequence[str] = ("python", "-m", "app.training"),
        cpus: int = 1,
        capacity: int = 64,
        pace: float = 1.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Send nothing yet.

        Args:
            address: of the cluster's dashboard, `http://HOST:8265`.
            environment: variables for the trainer; see `trainer_environment`. Anyone with access to the dashboard
                can read them.
            command: what to run on a node; the job's folder is added as the last argument.
            cpus: cores of a job whose spec asks for none.
            capacity: most submissions at a time, those that wait in Ray's queue among them.
            pace: seconds between two questions about a submission that waits.
            transport: what carries requests instead of the network.

        Raises:
            ConfigurationError: the file of the token cannot be read.
        """
        self.capacity = capacity
        self._address = address.rstrip("/")
        self._environment = dict(environment)
        self._command = list(command)
        self._cpus = cpus
        self._pace = pace
        self._launched: dict[str, str] = {}
        self._exits: dict[str, Exit] = {}
        self._looks: dict[str, _Look] = {}
        self._away = self._unusable("has not been asked")
        self._away_until = 0.0
        # As dictionaries, which keep their order, to forget the oldest.
        self._ended: dict[str, None] = {}
        self._stopped: dict[str, None] = {}
        token = _token()
        self._client = httpx.Client(
            base_url=f"{self._address}/api/jobs/",
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(10, connect=5),
            # A proxy of the environment cannot reach this machine's own addresses.
            trust_env=httpx.URL(self._address).host not in _LOOPBACK,
            # Questions are seconds apart, and nobody closes an executor.
            limits=httpx.Limits(max_keepalive_connections=0),
            transport=transport,
        )

    def launch(self, job: JobFolder) -> None:
        """Submit a trainer for `job`; Ray starts it once there is a place.

        Raises:
            TrainingFailed: Ray refuses it for good.
            OSError: Ray cannot be asked now.
        """
        resources = job.spec().resources
        cpus = resources.cpus or self._cpus
        attempt = job.state().attempt + 1
        path = job.path.resolve()
        # A trial lies in the folder of its job, and is called by a number.
        name = f"{path.parent.parent.name}-{job.id}" if path.parent.name == "trials" else job.id
        submission = f"{name}-{attempt}-{secrets.token_hex(4)}"
        # Written first: a submission whose answer is lost on its way is found again, and not made twice.
        job.write_placement(
            Placement(
                scheduler="Ray",
                submission=submission,
                attempt=attempt,
                asked_for=_asked_for(resources, cpus),
                at=now(),
            )
        )
        self._launched[job.id] = submission
        answer = self._ask(
            "POST",
            "",
            {
                "submission_id": submission,
                # `exec`, so that a signal to the submission is one to the trainer, and its exit status Ray's.
                "entrypoint": f"exec {shlex.join([*self._command, str(path)])} "
                f">> {shlex.quote(str(path / 'log.txt'))} 2>&1",
                "entrypoint_num_cpus": cpus,
                "entrypoint_num_gpus": resources.gpus,
                "entrypoint_memory": round((resources.memory_gb or 0) * 1e9),
                "runtime_env": {"env_vars": {**self._environment, **_limits(resources, cpus)}},
                "metadata": {"fovea_job": str(path)},
            },
        )
        if answer.status_code == httpx.codes.BAD_REQUEST:
            raise TrainingFailed(f"Ray refused the training job: {_last_line(answer.text)}")
        self._check(answer)

    def alive(self, job: JobFolder) -> bool:
        """Whether a trainer holds the job, or Ray has one that waits or is starting.

        Raises:
            OSError: nobody holds the job, and Ray cannot be asked.
        """
        if job.alive:
            return True
        submission = self._submission(job)
        if submission is None or submission in self._ended:
            return False
        look = self._looks.get(submission)
        # Each one that waits costs Ray a request: the more there are, the less often.
        if look is not None and look.waits and time.monotonic() < look.at + self._pace * max(1, len(self._looks) / 8):
            return True
        known = self._look(submission)
        if known is not None and known.status in _UNFINISHED:
            self._looks[submission] = _Look(time.monotonic(), waits=known.status == "PENDING")
            return True
        self._looks.pop(submission, None)
        _note(self._ended, submission)
        if self._launched.pop(job.id, None) is not None:
            self._exits[job.id] = _exit(known)
        # Ray says so of a node that it only lost sight of, too.
        return job.alive

    def collect(self, job: JobFolder) -> Exit | None:
        """How the trainer that this executor launched on `job` ended; told once."""
        return self._exits.pop(job.id, None)

    def end(self, job: JobFolder, *, force: bool) -> None:
        """Have Ray stop the trainer: SIGTERM, and what is left after three seconds, SIGKILL. Asked once is enough.

        One that waits for its place is stopped when it gets it; what it then finds is a job that has ended.

        Raises:
            OSError: Ray cannot be asked.
        """
        submission = self._submission(job)
        if submission is None or submission in self._stopped:
            return
        answer = self._ask("POST", f"{submission}/stop")
        if answer.status_code != httpx.codes.NOT_FOUND:
            self._check(answer)
        _note(self._stopped, submission)

    def _submission(self, job: JobFolder) -> str | None:
        """Ray's name for the last trainer of `job`."""
        if job.id in self._launched:
            return self._launched[job.id]
        placement = job.placement()
        return placement.submission if placement is not None else None

    def _look(self, submission: str) -> _Submission | None:
        """What Ray knows of a submission; None if it knows of none."""
        answer = self._ask("GET", submission)
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        self._check(answer)
        try:
            return _Submission.model_validate_json(answer.content)
        except ValidationError as error:
            raise self._unusable("answered something else than a job") from error

    def _ask(self, method: str, path: str, content: object = None) -> httpx.Response:
        if time.monotonic() < self._away_until:
            raise self._away
        try:
            return self._client.request(method, path, json=content)
        except httpx.HTTPError as error:
            # Who waits in vain for each job's answer in turn looks after none of them, and cannot be stopped.
            self._away = self._unusable(f"cannot be reached ({error})")
            self._away_until = time.monotonic() + 5 * self._pace
            raise self._away from error

    def _check(self, answer: httpx.Response) -> None:
        if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise PermissionError(
                f"Ray at {self._address} asks for another token: set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH."
            )
        if not answer.is_success:
            raise self._unusable(f"answered {answer.status_code}: {_last_line(answer.text)}")

    def _unusable(self, problem: str) -> OSError:
        return ConnectionError(f"Ray at {self._address} {problem}.")


def _token() -> str | None:
    """The token by which Ray knows its users, from where its own programs take it when they are told."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    path = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if not path and os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        path = "~/.ray/auth_token"
    if not path:
        return None
    try:
        return Path(path).expanduser().read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"The token of Ray, {path}, cannot be read: {error}.") from error


def _note(submissions: dict[str, None], submission: str) -> None:
    """Remember a submission, and forget the oldest where there are many: of that one Ray is only asked once more."""
    submissions[submission] = None
    while len(submissions) > _REMEMBERED:
        del submissions[next(iter(submissions))]


def _limits(resources: Resources, cpus: int) -> dict[str, str]:
    """Variables that keep a trainer to what it asked for: Ray counts, but holds nobody to it."""
    limits = {"FOVEA_TRAINING_THREADS": str(cpus)}
    if resources.gpus == 0:
        # Of a job that asks for no GPU Ray hides none.
        limits["CUDA_VISIBLE_DEVICES"] = ""
    elif resources.gpus < 1:
        limits["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    return limits


def _asked_for(resources: Resources, cpus: int) -> str:
    parts = [f"{cpus} core{'s' if cpus > 1 else ''}"]
    if resources.gpus:
        parts.append(f"{resources.gpus:g} GPU{'s' if resources.gpus > 1 else ''}")
    if resources.memory_gb:
        parts.append(f"{resources.memory_gb:g} GB of memory")
    return ", ".join(parts)


def _exit(known: _Submission | None) -> Exit:
    """How a trainer ended, by what Ray knows of its submission."""
    if known is None:
        return Exit("is not known to Ray", refused=True)
    if known.error_type == _WAITED_TOO_LONG:
        return Exit("waited for its place for longer than Ray allows", refused=True)
    if known.driver_exit_code is not None:
        ending = Exit.of_status(known.driver_exit_code)
        complaint = _last_line(known.message or "")
        if known.driver_exit_code <= 0 or ending.refused or any(own in complaint for own in _RAYS_OWN):
            return ending
        return Exit(f"{ending.description} ({complaint})")
    if known.status == "STOPPED":
        return Exit("was stopped at Ray")
    return Exit(f"was lost by Ray ({_first_line(known.message or known.status)})")


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")[:_LONGEST_QUOTE]


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:_LONGEST_QUOTE]
