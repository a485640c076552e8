"""What a call of the client can end with, other than an answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from app.client.documents import Job


class ClientError(Exception):
    """Base of all errors of the client: `str(error)` is a full sentence, `code` is for programs."""

    code: str = "client_error"


class Unreachable(ClientError):
    """No server answered, or not in time, after all attempts that were allowed."""

    code = "unreachable"

    def __init__(self, address: str, why: str) -> None:
        super().__init__(address, why)
        self.address = address
        self.why = why

    def __str__(self) -> str:
        return f"No Fovea server answers at {self.address}: {self.why}."


class Problem(ClientError):
    """The server answered with an error: a problem document (RFC 9457).

    `status` is HTTP's, `code` the server's stable word for it, `detail` the sentence, `id` that under which the
    server's log has the request, and `errors` names each wrong field where the code is `validation_failed`.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        title: str = "",
        id: str | None = None,
        errors: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        # All of them, so that the error can be pickled, as process pools do.
        super().__init__(status, code, detail, title, id, errors)
        self.status = status
        self.code = code
        self.detail = detail
        self.title = title
        self.id = id
        self.errors = tuple(errors)

    def __str__(self) -> str:
        return self.detail


class NotAllowed(Problem):
    """401 or 403: no key, one that is not known, or one without the scope that the call needs."""


class NotFound(Problem):
    """404: no such model, version, dataset, job or layer; the message says which there are."""


class Conflict(Problem):
    """409: the present state does not allow it, as with a dataset's name that is taken."""


class Busy(Problem):
    """429, 502, 503 or 504, still, after all attempts that were allowed: the same call may well succeed later."""


class TimedOut(Busy):
    """504: the server had no answer by the end of the time that the call had (`timeout`), or of its own."""


class JobFailed(ClientError):
    """A training job that was waited for did not succeed; `job` has it as it ended."""

    code = "job_failed"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        return f"Job {self.job.id} {self.job.state}: {self.job.reason or 'no reason was given.'}"


_BY_STATUS: Mapping[int, type[Problem]] = {
    401: NotAllowed,
    403: NotAllowed,
    404: NotFound,
    409: Conflict,
    429: Busy,
    502: Busy,
    503: Busy,
    504: TimedOut,
}


def problem(status: int, document: object) -> Problem:
    """The error for an answer that is one; `document` is its JSON, or whatever else came."""
    kind = _BY_STATUS.get(status, Problem)
    if not isinstance(document, dict) or not isinstance(document.get("detail"), str):
        # A proxy's own words, or another service's.
        return kind(status, "unexpected_answer", f"The server answered with status {status}; is it a Fovea server?")
    errors = document.get("errors")
    return kind(
        status,
        str(document.get("code", "error")),
        document["detail"],
        str(document.get("title", "")),
        document.get("id"),
        errors if isinstance(errors, list) else (),
    )
