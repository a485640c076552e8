"""Routes that are closed unless they say who may use them.

`PlainRoute` is the class of the bare routes; `app.api.guarded.GuardedRoute` is that of every
FastAPI router. Making one for an endpoint that declares neither `@requires(...)` nor `@public`
fails, when the module is imported or the application is built.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, TypeVar

from starlette.datastructures import QueryParams
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from app.api import security
from app.api.services import services_of
from app.errors import InvalidRequest

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_ATTRIBUTE = "__fovea_scopes__"


def requires(*scopes: security.Scope) -> Callable[[_Endpoint], _Endpoint]:
    """Declare that an endpoint is for keys with one of `scopes`; `admin` always may."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _ATTRIBUTE, frozenset(scopes))
        return endpoint

    return declare


def public(endpoint: _Endpoint) -> _Endpoint:
    """Declare that an endpoint needs no key: it gives nothing away and changes nothing."""
    setattr(endpoint, _ATTRIBUTE, None)
    return endpoint


def declared_scopes(endpoint: object) -> frozenset[security.Scope] | None:
    """The scopes that an endpoint declared; None for a public one.

    Raises:
        RuntimeError: it declared nothing. The tests build all routes, so it gets no further than them.
    """
    try:
        scopes: frozenset[security.Scope] | None = getattr(endpoint, _ATTRIBUTE)
    except AttributeError:
        raise RuntimeError(
            f"The endpoint {endpoint!r} does not declare who may use it: @requires or @public."
        ) from None
    return scopes


class PlainRoute(Route):
    """A bare ASGI route; checks the key before the endpoint sees the request."""

    def __init__(self, path: str, endpoint: Callable[..., Any], *, methods: Collection[str] = ("GET",)) -> None:
        self.scopes = declared_scopes(endpoint)
        super().__init__(path, endpoint, methods=methods)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Also say which route it is, as FastAPI's do: metrics and logs name it by its template."""
        match, found = super().matches(scope)
        if match is not Match.NONE:
            found["route"] = self
        return match, found

    loads = False
    """Whether it is a route by which a platform loads the models that it laid down; see `Settings.anonymous`."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the request through to the endpoint, or raise the domain's error for why not."""
        if self.scopes is not None and scope["method"] in (self.methods or ()):
            services = services_of(scope)
            anonymous = services.settings.anonymous
            if self.loads and anonymous == "models":
                anonymous = "all"
            security.authorize(services.keys, scope, self.scopes, anonymous=anonymous)
        await super().handle(scope, receive, send)


def check_query(scope: Scope, allowed: tuple[str, ...]) -> None:
    """Refuse query parameters that do not exist: a typing error must not quietly mean the default.

    Raises:
        InvalidRequest: naming those that do.
    """
    if not scope["query_string"]:
        return
    # No names from the client in the message beyond a few: the query may be 64 KB of them.
    unknown = sorted(set(QueryParams(scope["query_string"])) - set(allowed))
    if unknown:
        named = ", ".join(repr(name[:40]) for name in unknown[:3])
        known = f"Allowed: {', '.join(allowed)}." if allowed else "None are allowed here."
        raise InvalidRequest(f"Unknown query parameter {named}. {known}")
