"""Routes of other servers' protocols: like ours, but their errors are the protocol's."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection
from typing import Any

from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from app.api.answering import Answering
from app.api.errors import ClientGone, request_id_of
from app.api.routes import PlainRoute, requires
from app.api.ways import Failures, Way
from app.errors import FoveaError

logger = logging.getLogger(__name__)


class ProtocolRoute(PlainRoute):
    """A bare route whose errors are rendered by `failures`."""

    def __init__(
        self, path: str, endpoint: Callable[..., Any], failures: Failures, *, methods: Collection[str] = ("GET",)
    ) -> None:
        super().__init__(path, endpoint, methods=methods)
        # No place in a path holds a colon: what follows one is a verb, and another route's.
        self.path_regex = re.compile(self.path_regex.pattern.replace("[^/]+", "[^/:]+"))
        self._failures = failures

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request, with an error if it comes to that."""
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await super().handle(scope, receive, watched)
        except FoveaError as error:
            if begun:
                raise
            await self._failures.answer(error, scope)(scope, receive, send)
        except (ClientGone, HTTPException):
            # The latter says that the path exists, but not for this method.
            raise
        except Exception:
            if begun:
                raise
            logger.exception("Unexpected error", extra={"request_id": request_id_of(scope)})
            await self._failures.internal(request_id_of(scope))(scope, receive, send)


def route_of(way: Way) -> ProtocolRoute:
    """The route of a way."""
    endpoint = requires(*way.scopes)(Answering(way))
    return ProtocolRoute(way.template, endpoint, way.failures, methods=["POST"])
