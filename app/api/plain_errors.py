"""Errors below the paths of other servers' protocols that are found outside of their routes: by a middleware, or since
there is no such route. Their clients look for `{"error": "what is wrong"}` there too, and show nothing of what has
none.
"""

from __future__ import annotations

import re

import orjson
from starlette.responses import Response
from starlette.types import Scope

_ROOTS = frozenset({"v1", "v2"})
_NOTHING = "There is nothing at this path. The docs page, /docs, lists all there is."
# What Triton's clients can ask for besides, and we have not.
_EXTENSIONS = (
    (re.compile(r"/v2/(models/[^/]+/(versions/[^/]+/)?)?trace/setting"), "trace settings"),
    (re.compile(r"/v2/logging"), "log settings"),
    (re.compile(r"/v2/(system|cuda|xpu)sharedmemory(/.*)?"), "shared memory"),
    (re.compile(r"/v2/models/[^/]+/(versions/[^/]+/)?generate(_stream)?"), "generated text"),
)


def is_other(path: str) -> bool:
    """Whether a path is one of those where clients of other servers call."""
    return path[1:].partition("/")[0] in _ROOTS


def to_text(problem: Response, text: str) -> Response:
    """A problem document as those clients read it: its status and its headers, and the words."""
    response = Response(orjson.dumps({"error": text}), problem.status_code, media_type="application/json")
    kept = [(name, value) for name, value in problem.raw_headers if name not in (b"content-type", b"content-length")]
    response.raw_headers.extend(kept)
    return response


def suit(problem: Response, scope: Scope) -> Response:
    """The form in which a problem document is to leave, by the path that was called."""
    if not is_other(scope["path"]):
        return problem
    text: str = orjson.loads(bytes(problem.body))["detail"]
    return to_text(problem, text)


def missing(path: str) -> str:
    """What to say where there is nothing at a path."""
    if not is_other(path):
        return _NOTHING
    if "/models//" in path:
        return "The path has an empty place where the name of a model stands. GET /v1/models lists the models."
    for pattern, what in _EXTENSIONS:
        if pattern.fullmatch(path):
            return f"This service has no {what}. GET /v2 lists the extensions that there are."
    return _NOTHING
