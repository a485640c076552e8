"""Errors as other servers' clients know them: `{"error": "what is wrong"}`, with the status of our own answer."""

from __future__ import annotations

from starlette.responses import Response
from starlette.types import Scope

from app.api import errors
from app.api.plain_errors import to_text
from app.errors import FoveaError


class ErrorText:
    """As `app.api.ways.Failures`."""

    def answer(self, error: FoveaError, scope: Scope) -> Response:
        """One of the domain's errors, with the headers of the problem document that it would be."""
        problem = errors.answer(error, scope)
        return to_text(problem, str(error))

    def internal(self, request_id: str | None) -> Response:
        """A fault of ours."""
        return to_text(errors.internal(request_id), "The service failed on this request; its log has the reason.")
