"""A server that runs: started, asked for its first answer, checked against TensorFlow, loaded, ended."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import answers, large_requests, wrk
from benchmarks.forms import IMAGES_IN_A_REQUEST, form, form_type
from benchmarks.places import LOGS, REPOSITORY
from benchmarks.processes import Tree
from benchmarks.servers import Server, Setting
from benchmarks.workloads import Workload

_START_SECONDS = 120.0
_POLL_SECONDS = 0.01
_ANSWER_SECONDS = 60.0


class NotStarted(Exception):
    """A server gave no answer; the message says what it said instead."""


class WrongAnswers(Exception):
    """A server answers otherwise than TensorFlow does."""


@dataclass(frozen=True)
class Running:
    """A server at work on a workload."""

    server: Server
    workload: Workload
    tree: Tree
    port: int
    cold_start: float
    """Seconds from the start of the process to the first good answer."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def media_type(self) -> str:
        return self.server.media_type or self.workload.media_type

    def ask(self, data: bytes) -> answers.Probabilities:
        """The answer to one image."""
        status, body = self._post(self.server.path, self.media_type, self.server.encode(data))
        if status != 200:
            raise WrongAnswers(f"status {status}: {body[:300].decode(errors='replace')}")
        return self.server.read(body)[0]

    def wait(self) -> None:
        """Wait until all of its processes are at work, if it tells.

        Raises:
            NotStarted: they never are.
        """
        if self.server.ready_path is None:
            return
        deadline = time.perf_counter() + _START_SECONDS
        while self._request("GET", self.server.ready_path)[0] != 200:
            if time.perf_counter() > deadline:
                raise NotStarted(f"it is not ready after {_START_SECONDS:g} s more: {self.tree.said()}")
            time.sleep(_POLL_SECONDS)

    def check(self) -> None:
        """Wait for all of it, and raise WrongAnswers if it answers any image otherwise than TensorFlow does."""
        self.wait()
        images = self.workload.images()
        problem = answers.difference(
            [self.ask(data) for data in images], self.workload.expected(), self.server.tolerance
        )
        if problem:
            raise WrongAnswers(problem)
        if self.server.many_path is None:
            return
        status, body = self._post(self.server.many_path, form_type(), self._many())
        if status != 200:
            raise WrongAnswers(f"status {status} for many images: {body[:300].decode(errors='replace')}")
        several = self.server.read(body)
        if len(several) != IMAGES_IN_A_REQUEST:
            raise WrongAnswers(f"{len(several)} answers to {IMAGES_IN_A_REQUEST} images")
        if problem := answers.difference(several, self.workload.expected(), self.server.tolerance):
            raise WrongAnswers(f"of many images, {problem}")

    def engine(self) -> str | None:
        """What the product says that runs the version, "openvino-bf16" say; None for other servers.

        Raises:
            WrongAnswers: it computes in another precision than was asked for.
        """
        if self.server.peer:
            return None
        status, body = self._request("GET", f"/api/v1/models/{self.workload.name}")
        if status != 200:
            raise WrongAnswers(f"status {status} for its model: {body[:300].decode(errors='replace')}")
        found = str(json.loads(body)["runtime"])
        if not found.endswith(self.server.precision):
            raise WrongAnswers(f"{found} answers, and not an engine in {self.server.precision}")
        return found

    def load(self, connections: int, seconds: float) -> wrk.Load:
        """Single images, in a closed loop."""
        return wrk.load(
            self.url + self.server.path, self.media_type, self._bodies(), connections=connections, seconds=seconds
        )

    def load_many(self, connections: int, seconds: float) -> wrk.Load:
        """Requests of many images each, in a closed loop."""
        assert self.server.many_path is not None
        body, path = self._many(), self.server.many_path
        return large_requests.load(self.port, path, form_type(), body, connections=connections, seconds=seconds)

    def _many(self) -> bytes:
        images = self.workload.images()
        return form([images[number % len(images)] for number in range(IMAGES_IN_A_REQUEST)])

    def _bodies(self) -> list[Path]:
        if self.server.media_type is None:
            return self.workload.files
        folder = self.workload.folder / "bodies" / self.server.name
        folder.mkdir(parents=True, exist_ok=True)
        files = []
        for number, data in enumerate(self.workload.images()):
            files.append(folder / f"{number:02}")
            files[-1].write_bytes(self.server.encode(data))
        return files

    def _post(self, path: str, media_type: str, body: bytes) -> tuple[int, bytes]:
        return request(self.port, "POST", path, media_type, body, seconds=_ANSWER_SECONDS)

    def _request(self, method: str, path: str) -> tuple[int, bytes]:
        return request(self.port, method, path, None, None, seconds=_ANSWER_SECONDS)


@contextmanager
def running(server: Server, workload: Workload, setting: Setting) -> Iterator[Running]:
    """A server for the length of the block, which begins at its first good answer.

    Raises:
        NotStarted: there was none.
    """
    port = free_port()
    log = LOGS / f"{workload.name}-{server.name}.log"
    command = server.command(port, setting)
    image = workload.images()[0]
    with Tree(command, server.variables(workload, port, setting), folder=REPOSITORY, log=log) as tree:
        media_type = server.media_type or workload.media_type
        body = server.encode(image)
        deadline = tree.started + _START_SECONDS
        last = "no answer"
        while True:
            try:
                status, answer = request(port, "POST", server.path, media_type, body, seconds=_ANSWER_SECONDS)
            except (OSError, http.client.HTTPException) as error:
                last = str(error) or type(error).__name__
            else:
                if status == 200:
                    break
                last = f"status {status}: {answer[:300].decode(errors='replace')}"
            if tree.ended:
                raise NotStarted(f"it ended: {tree.said()}")
            if time.perf_counter() > deadline:
                raise NotStarted(f"nothing within {_START_SECONDS:g} s ({last}): {tree.said()}")
            time.sleep(_POLL_SECONDS)
        yield Running(server, workload, tree, port, time.perf_counter() - tree.started)


def request(
    port: int,
    method: str,
    path: str,
    media_type: str | None,
    body: bytes | None,
    *,
    seconds: float,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        connection.request(
            method, path, body, {**({"Content-Type": media_type} if media_type else {}), **(headers or {})}
        )
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
