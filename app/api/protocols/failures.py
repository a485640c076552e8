"""Errors as other servers' clients know them: `{"error": "what is wrong"}`, with the status of our own answer."""

from __future__ import annotations

import orjson
from starlette.responses import Response
from starlette.types import Scope

from app.api import errors
from app.errors import FoveaError


class ErrorText:
    """As `app.api.ways.Failures`."""

    def answer(self, error: FoveaError, scope: Scope) -> Response:
        """One of the domain's errors, with the headers of the problem document that it would be."""
        problem = errors.answer(error, scope)
        return _text(problem, str(error))

    def internal(self, request_id: str | None) -> Response:
        """A fault of ours."""
        return _text(errors.internal(request_id), "The service failed on this request; its log has the reason.")


def _text(problem: Response, text: str) -> Response:
    response = Response(orjson.dumps({"error": text}), problem.status_code, media_type="application/json")
    kept = [(name, value) for name, value in problem.raw_headers if name not in (b"content-type", b"content-length")]
    response.raw_headers.extend(kept)
    return response
