"""Protection of a service without keys from web pages of other sites.

Such a service listens on loopback, where no stranger can reach it, but the browser of the
person in front of it can, on behalf of any page that is open there. Two checks close that:
requests that change something must not come from another site, and the Host must be this
machine, so that no foreign name can be made to point here (DNS rebinding).
With keys neither is needed: a browser does not add a key by itself.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Receive, Scope, Send

from app.api.errors import CrossSiteRequest, MisdirectedRequest
from app.api.services import Services

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Origins:
    """The two checks."""

    def __init__(self, services: Services) -> None:
        self.anonymous = services.keys is None
        """Whether there is anything to check at all."""
        self._check_host = self.anonymous and services.settings.loopback

    def check(self, method: str, headers: Mapping[bytes, bytes]) -> None:
        """Let an anonymous request through, or raise the domain's error.

        Raises:
            MisdirectedRequest, CrossSiteRequest.
        """
        host = headers.get(b"host", b"").decode("latin-1")
        if self._check_host and not _is_loopback(host):
            raise MisdirectedRequest(
                "The Host header does not name this machine. Without API keys, call the service as "
                "127.0.0.1 or localhost; to use another name, set FOVEA_API_KEYS."
            )
        if method not in _SAFE and not _same_site(headers, host):
            raise CrossSiteRequest(
                "A web page of another site sent this request. Without API keys that is not allowed."
            )


class OriginGuard:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, services: Services) -> None:
        self._app = app
        self._origins = Origins(services)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or raise the domain's error."""
        if self._origins.anonymous and scope["type"] == "http":
            self._origins.check(scope["method"], dict(scope["headers"]))
        await self._app(scope, receive, send)


# Clients send the same few; parsing one costs as much as the rest of a small request's way in.
@lru_cache(maxsize=64)
def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _same_site(headers: Mapping[bytes, bytes], host: str) -> bool:
    # Browsers say it themselves, and no page can change what they say; "none" is a person's own doing.
    declared = headers.get(b"sec-fetch-site")
    if declared is not None:
        return declared in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    # Programs that are no browsers send neither.
    if origin is None:
        return True
    try:
        return urlsplit(origin.decode("latin-1")).netloc == host
    except ValueError:  # it is no address at all
        return False
