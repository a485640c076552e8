"""What FastAPI and Starlette do with errors: the handlers that turn them into problem documents."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from app.api.errors import BY_STATUS, VALIDATION_FAILED, answer, codes, problem, request_id_of
from app.api.plain_errors import missing, suit
from app.api.validation import explain, summary
from app.errors import FoveaError


def handlers() -> dict[int | type[Exception], Any]:
    """What the application installs, so that no error leaves in another form."""
    return {
        FoveaError: _domain_error,
        HTTPException: _http_error,
        RequestValidationError: _validation_error,
        Exception: _unexpected_error,
    }


async def _unexpected_error(_request: Request, error: Exception) -> Response:
    """Left to `app.api.observation`, which is around it all."""
    raise error


async def _domain_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, FoveaError)
    return answer(error, request.scope)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    code = BY_STATUS.get(status, status.name.lower())
    detail = error.detail if error.detail != status.phrase else status.description or status.phrase
    headers = dict(error.headers or {})
    if status == HTTPStatus.NOT_FOUND:
        detail = missing(request.url.path)
    elif status == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = ", ".join(sorted(part.strip() for part in headers.pop("Allow", "").split(",")))
        headers["Allow"] = allowed
        detail = f"{request.method} is not allowed here. Allowed: {allowed}."
    elif isinstance(error.__cause__, RecursionError):
        detail = "The JSON body is nested too deeply. Nothing that is accepted here goes deeper than five levels."
    elif isinstance(error.__cause__, UnicodeDecodeError):
        detail = "The JSON body is not valid UTF-8, which JSON has to be."
    title = codes()[code][1] if code in codes() else status.phrase
    found = problem(status, code, title, detail, request_id=request_id_of(request.scope), headers=headers)
    return suit(found, request.scope)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    route = request.scope.get("route")
    body = getattr(getattr(route, "body_field", None), "field_info", None)
    examples: dict[str, str] = {}
    for parameter in route.dependant.query_params if isinstance(route, APIRoute) else ():
        if parameter.field_info.examples:
            examples[parameter.alias] = str(parameter.field_info.examples[0])
    found = [explain(entry, getattr(body, "annotation", None), examples) for entry in error.errors()]
    return problem(
        422,
        VALIDATION_FAILED,
        "Validation failed",
        summary(found),
        request_id=request_id_of(request.scope),
        more={"errors": found},
    )
