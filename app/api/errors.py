"""How errors leave the service: one table from error class to HTTP status, and RFC 9457 problem documents.

Nothing below this floor knows of statuses. Every answer that is an error has the media
type `application/problem+json` and a stable `code`; `/docs/errors` explains each.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Scope

from app import errors
from app.api.services import services_of

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class UnsupportedMediaType(errors.InvalidRequest):
    """A body in a media type that the route does not take."""

    code = "unsupported_media_type"


class NotAcceptable(errors.InvalidRequest):
    """The client accepts only media types in which there is no answer."""

    code = "not_acceptable"


class MisdirectedRequest(errors.InvalidRequest):
    """A Host header that is not this machine, at a service without keys: a sign of DNS rebinding."""

    code = "misdirected_request"


class CrossSiteRequest(errors.Forbidden):
    """A web page of another site tried to use the service through somebody's browser."""

    code = "cross_site_request"


class ClientGone(Exception):
    """The client closed the connection; there is nobody to answer."""


@dataclass(frozen=True)
class Kind:
    """What every problem of one code has in common."""

    status: int
    title: str


# The one table. A class that is missing here has the entry of its nearest ancestor.
KINDS: Mapping[type[errors.FoveaError], Kind] = {
    errors.FoveaError: Kind(500, "Internal error"),
    errors.InvalidRequest: Kind(400, "Invalid request"),
    errors.InvalidName: Kind(400, "Invalid name"),
    errors.InvalidImage: Kind(422, "Not a readable image"),
    errors.UnsupportedImageFormat: Kind(415, "Unsupported image format"),
    errors.ImageTooLarge: Kind(413, "Image has too many pixels"),
    errors.PayloadTooLarge: Kind(413, "Request too large"),
    errors.RequestTimeout: Kind(408, "Body took too long"),
    errors.NotFound: Kind(404, "Not found"),
    errors.ModelNotFound: Kind(404, "No such model"),
    errors.VersionNotFound: Kind(404, "No such version"),
    errors.DatasetNotFound: Kind(404, "No such dataset"),
    errors.LayerNotFound: Kind(404, "No such layer"),
    errors.JobNotFound: Kind(404, "No such training job"),
    errors.Conflict: Kind(409, "Not possible in the present state"),
    errors.InvalidDataset: Kind(422, "Dataset cannot be used"),
    errors.InvalidSpec: Kind(422, "Training spec cannot be used"),
    errors.VersionRefused: Kind(422, "Model version failed its checks"),
    errors.NotExplainable: Kind(422, "Model version cannot be explained"),
    errors.ExplainUnavailable: Kind(501, "Explanations need TensorFlow"),
    errors.NotReady: Kind(503, "Not ready yet"),
    errors.Overloaded: Kind(429, "Too many requests"),
    errors.DeadlineExceeded: Kind(504, "No answer in time"),
    errors.InferenceFailed: Kind(500, "Inference failed"),
    errors.Unauthorized: Kind(401, "API key needed"),
    errors.Forbidden: Kind(403, "Not allowed with this key"),
    errors.StorageFailed: Kind(507, "Storage failed"),
    errors.ConfigurationError: Kind(500, "Wrong configuration"),
    errors.TrainingFailed: Kind(500, "Training failed"),
    NotAcceptable: Kind(406, "Not acceptable"),
    UnsupportedMediaType: Kind(415, "Unsupported media type"),
    MisdirectedRequest: Kind(421, "Unknown host name"),
    CrossSiteRequest: Kind(403, "Request from another site"),
}


# Counted here, a request each; the classifier and the budget of bodies count what they refuse themselves.
TURNED_AWAY = frozenset({"payload_too_large", "request_timeout", "unauthorized", "forbidden", "not_ready"})


# Errors of the moment: the same request may well be answered a little later.
_PASSING = (errors.Overloaded, errors.NotReady, errors.DeadlineExceeded)


# No fault of the service, whatever their status.
_EXPECTED = errors.NotReady | errors.DeadlineExceeded | errors.ExplainUnavailable


# Codes of errors that are found before any of our code runs.
VALIDATION_FAILED = "validation_failed"
BY_STATUS: Mapping[int, str] = {400: "invalid_request", 404: "not_found", 405: "method_not_allowed"}


def kind_of(error: type[errors.FoveaError]) -> Kind:
    """Status and title for a class of errors: its own, or its nearest ancestor's."""
    for ancestor in error.__mro__:
        if ancestor in KINDS:
            return KINDS[ancestor]
    raise AssertionError("FoveaError itself is in the table")


def codes() -> dict[str, tuple[int, str, str]]:
    """Every code that a problem document can have: its status, title and explanation, in order of status."""
    table = {
        error.code: (kind.status, kind.title, " ".join((error.__doc__ or kind.title + ".").split()))
        for error, kind in KINDS.items()
    }
    table["error"] = (500, "Internal error", "A fault of the service. The log has more under the problem's `id`.")
    table[VALIDATION_FAILED] = (
        422,
        "Validation failed",
        "A parameter or field of the body is wrong; `errors` lists where, why and what is allowed.",
    )
    table["method_not_allowed"] = (405, "Method not allowed", "The path exists, but not for this method; see `Allow`.")
    return dict(sorted(table.items(), key=lambda entry: (entry[1][0], entry[0])))


def problem(
    status: int,
    code: str,
    title: str,
    detail: str,
    *,
    request_id: str | None,
    headers: Mapping[str, str] | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """A problem document (RFC 9457). `type` is relative and leads to the page that explains the code."""
    document: dict[str, Any] = {
        "type": f"/docs/errors#{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
    }
    if request_id is not None:
        document["id"] = request_id
    document.update(more or {})
    body = json.dumps(document, ensure_ascii=True, allow_nan=False).encode()
    return Response(body, status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE)


def render(error: errors.FoveaError, request_id: str | None, retry_after: float = 1.0) -> Response:
    """The answer for one of the domain's errors. `retry_after`: seconds, where it does not say them itself."""
    kind = kind_of(type(error))
    headers: dict[str, str] = {}
    if isinstance(error, errors.Overloaded):
        retry_after = error.retry_after
    if passing(error):
        # Whole seconds: the header knows no fractions, and zero would mean "at once".
        headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
    elif isinstance(error, errors.Unauthorized):
        headers["WWW-Authenticate"] = 'Bearer realm="fovea"'
    elif isinstance(error, errors.RequestTimeout):
        headers["Connection"] = "close"
    return problem(kind.status, error.code, kind.title, str(error), request_id=request_id, headers=headers)


def internal(request_id: str | None) -> Response:
    """The answer when our own code failed: no stack trace, only the id under which the log has it."""
    status, title, _ = codes()["error"]
    detail = "The service failed on this request. Its log has the reason under the id of this problem."
    return problem(status, "error", title, detail, request_id=request_id)


def request_id_of(scope: Scope) -> str | None:
    """The id that `app.api.observation` gave the request."""
    value: str | None = scope.get("fovea.request_id")
    return value


def passing(error: errors.FoveaError) -> bool:
    """Whether the same request may well be answered a little later."""
    return isinstance(error, _PASSING)


def log_fault(error: errors.FoveaError, request_id: str | None) -> None:
    """Log an error that is the service's own fault; others are none of its log."""
    if kind_of(type(error)).status >= 500 and not isinstance(error, _EXPECTED):
        logger.error("%s: %s", error.code, error, extra={"request_id": request_id}, exc_info=error)


def answer(error: errors.FoveaError, scope: Scope) -> Response:
    """The answer to a request that ended with one of the domain's errors, counted and logged as it should be."""
    if error.code in TURNED_AWAY:
        services_of(scope).metrics.rejected(error.code)
    request_id = request_id_of(scope)
    log_fault(error, request_id)
    if isinstance(error, errors.NotReady | errors.DeadlineExceeded):
        return render(error, request_id, services_of(scope).classifier.retry_after())
    return render(error, request_id)
