"""The route class of every FastAPI router here; see `app.api.routes`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastapi.routing import APIRoute
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.api import security
from app.api.bodies import Limits, media_type, printable, read_body, replay
from app.api.errors import UnsupportedMediaType
from app.api.routes import check_query, declared_scopes
from app.api.services import services_of

# No JSON that this API takes comes near it; without a cap of its own, parsing costs twenty times its size.
_MOST_JSON = 2**20


class GuardedRoute(APIRoute):
    """Checks the key before a byte of the body is read, then reads the body with a cap and a deadline."""

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        self.scopes = declared_scopes(endpoint)
        super().__init__(path, endpoint, **options)

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through to the endpoint, or raise the domain's error for why not."""
        if scope["method"] in (self.methods or ()):
            services = services_of(scope)
            if self.scopes is not None:
                security.authorize(services.keys, scope, self.scopes, anonymous=services.settings.anonymous)
            check_query(scope, tuple(parameter.alias for parameter in self.dependant.query_params))
            if self.body_field is not None:
                headers = Headers(scope=scope)
                limits = Limits(min(services.settings.max_body_bytes, _MOST_JSON), services.settings.body_timeout)
                body = await read_body(receive, headers, limits)
                if body and not _is_json(media_type(headers)):
                    raise UnsupportedMediaType(
                        f"Content-Type {printable(media_type(headers))!r} is not accepted here. "
                        "Allowed: application/json."
                    )
                receive = replay(body, receive)
        await super().handle(scope, receive, send)


def _is_json(kind: str) -> bool:
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))
