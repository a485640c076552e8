"""Every call of the API: its request, and what its answer becomes. No input or output here."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import quote, unquote

from pydantic import BaseModel

from app.client.answers import Candidate, Explanation, Failure, Prediction, Result
from app.client.documents import Dataset, DatasetSummary, Job, JobResult, Model, Promotion, Version
from app.client.errors import JobFailed, NotFound
from app.client.exchange import Call, Pause, Reply, Request, Upload

VersionName = int | Literal["production"]

_Document = TypeVar("_Document", bound=BaseModel)

# Between looks at what is waited for, in seconds.
_FIRST_LOOK, _LATER_LOOKS = 0.2, 2.0


def predict(
    images: Sequence[bytes], names: Sequence[str], model: str | None, version: VersionName, top_k: int
) -> Call[list[Result]]:
    """Classify encoded images; the results stand in their order. A single bad one is a problem, not a result."""
    params: dict[str, str | int] = {"version": version, "top_k": top_k}
    if model is not None:
        params["model"] = model
    alone = len(images) == 1
    request = Request(
        "POST",
        "predict",
        params,
        _BYTES if alone else {},
        body=images[0] if alone else None,
        images=None if alone else images,
        repeatable=True,
        bounded=True,
    )

    def parse(reply: Reply) -> list[Result]:
        document = reply.document()
        served = {"model": document["model"], "version": document["version"]}
        entries = document["predictions"]
        return [_result(entry, name, served) for entry, name in zip(entries, names, strict=True)]

    return Call(request, parse)


def explain(
    image: bytes, model: str, version: VersionName, method: str, layer: str | None, label: str | None
) -> Call[Explanation]:
    """Look into a model."""
    params: dict[str, str | int] = {"method": method, "version": version}
    params |= {name: value for name, value in (("layer", layer), ("label", label)) if value is not None}
    path = f"models/{_part(model)}/explain"
    return Call(Request("POST", path, params, _BYTES, body=image, repeatable=True, bounded=True), _explanation)


def models() -> Call[list[Model]]:
    """All models."""
    return Call(_get("models"), lambda reply: _list(Model, reply, "models"))


def model(name: str) -> Call[Model]:
    """One, with its versions."""
    return Call(_get(f"models/{_part(name)}"), lambda reply: Model.model_validate_json(reply.body))


def version(model: str, number: int) -> Call[Version]:
    """One version."""
    path = f"models/{_part(model)}/versions/{number}"
    return Call(_get(path), lambda reply: Version.model_validate_json(reply.body))


def promotions(model: str) -> Call[list[Promotion]]:
    """A model's promotion log."""
    return Call(_get(f"models/{_part(model)}/promotions"), lambda reply: _list(Promotion, reply, "promotions"))


def promote(model: str, number: int, reason: str) -> Call[Promotion]:
    """Make a version production."""
    return _post(Promotion, f"models/{_part(model)}/promote", {"version": number, "reason": reason})


def rollback(model: str, reason: str) -> Call[Promotion]:
    """Go back to the version before."""
    return _post(Promotion, f"models/{_part(model)}/rollback", {"reason": reason})


def datasets() -> Call[list[DatasetSummary]]:
    """All datasets."""
    return Call(_get("datasets"), lambda reply: _list(DatasetSummary, reply, "datasets"))


def dataset(name: str) -> Call[Dataset]:
    """A dataset's report."""
    return Call(_get(f"datasets/{_part(name)}"), lambda reply: Dataset.model_validate_json(reply.body))


def upload(name: str, archive: Upload) -> Call[Dataset]:
    """Add a dataset."""
    request = Request("POST", "datasets", {"name": name}, _BYTES, upload=archive)
    return Call(request, lambda reply: Dataset.model_validate_json(reply.body))


def submit(spec: Mapping[str, Any]) -> Call[Job]:
    """Queue a training job."""
    return _post(Job, "training-jobs", dict(spec))


def jobs(limit: int) -> Call[list[Job]]:
    """The training jobs, the newest first."""
    return Call(_get("training-jobs", {"limit": limit}), lambda reply: _list(Job, reply, "jobs"))


def job(job_id: str) -> Call[Job]:
    """One training job."""
    return Call(_get(f"training-jobs/{_part(job_id)}"), lambda reply: Job.model_validate_json(reply.body))


def log(job_id: str, lines: int | None) -> Call[str]:
    """The end of a job's output."""
    params = {} if lines is None else {"tail": lines}
    return Call(_get(f"training-jobs/{_part(job_id)}/log", params), lambda reply: reply.body.decode("utf-8", "replace"))


def cancel(job_id: str) -> Call[Job]:
    """Ask a job to stop."""
    return _post(Job, f"training-jobs/{_part(job_id)}/cancel")


def anything(method: str, path: str, params: Mapping[str, str | int] | None, json: Any) -> Call[Any]:
    """Any other call that is answered with JSON."""
    request = Request(method, path, params or {}, json=json, repeatable=method == "GET")

    def parse(reply: Reply) -> Any:
        if (document := reply.document()) is None:
            raise ValueError("the answer is not JSON")
        return document

    return Call(request, parse)


def job_ended(job_id: str, timeout: float) -> Generator[Call[Job] | Pause, Job | NotFound | None, Job]:
    """Look at a job until it has ended; returns it.

    Raises:
        NotFound: there is no such job.
        TimeoutError: that took longer than `timeout` seconds.
    """
    waiting = _Waiting(timeout)
    while True:
        found = yield job(job_id)
        if isinstance(found, NotFound):
            raise found
        assert found is not None
        if found.final:
            return found
        yield waiting.pause(f"Job {job_id} is still {found.state}")


def dataset_checked(name: str, timeout: float) -> Generator[Call[Dataset] | Pause, Dataset | NotFound | None, Dataset]:
    """Look for a dataset until it is there; returns its report.

    Raises:
        TimeoutError: that took longer than `timeout` seconds.
    """
    waiting = _Waiting(timeout)
    while True:
        found = yield dataset(name)
        if isinstance(found, Dataset):
            return found
        yield waiting.pause(f"There is still no dataset {name!r}")


def result_of(job: Job) -> JobResult:
    """What came of a job that has ended.

    Raises:
        JobFailed: it failed, or was cancelled.
    """
    if job.state != "succeeded" or job.result is None:
        raise JobFailed(job)
    return job.result


class _Waiting:
    """The pauses between looks: short at first, then longer."""

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._seconds = _FIRST_LOOK

    def pause(self, otherwise: str) -> Pause:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"{otherwise} after {self._timeout:g} s.")
        pause = Pause(min(self._seconds, left))
        self._seconds = min(_LATER_LOOKS, self._seconds * 1.5)
        return pause


_BYTES = {"Content-Type": "application/octet-stream"}


def _part(name: str) -> str:
    """A name as one part of a path, whatever is in it: the server says which names there can be."""
    return quote(str(name), safe="")


def _get(path: str, params: Mapping[str, str | int] | None = None) -> Request:
    return Request("GET", path, params or {}, repeatable=True)


def _post(kind: type[_Document], path: str, body: Any = None) -> Call[_Document]:
    return Call(Request("POST", path, json=body), lambda reply: kind.model_validate_json(reply.body))


def _list(kind: type[_Document], reply: Reply, field: str) -> list[_Document]:
    return [kind.model_validate(entry) for entry in reply.document()[field]]


def _result(entry: dict[str, Any], name: str, served: dict[str, Any]) -> Result:
    if "error" in entry:
        return Failure(name=name, **entry["error"])
    top = tuple(Candidate.model_validate(candidate) for candidate in entry["top"])
    return Prediction.model_validate({**entry, "name": name, "top": top, **served})


def _explanation(reply: Reply) -> Explanation:
    def text(name: str) -> str | None:
        value = reply.headers.get(name)
        return None if value is None else unquote(value)

    probability = text("fovea-probability")
    return Explanation(
        picture=reply.body,
        model=reply.headers["fovea-model"],
        version=int(reply.headers["fovea-version"]),
        layer=text("fovea-layer"),
        label=text("fovea-label"),
        probability=None if probability is None else float(probability),
    )
