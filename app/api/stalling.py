"""Getting rid of connections on which no request's head arrives."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uvicorn.server import Protocols


class Stalled:
    """Closes connections that began, or began a request, and do not finish its head in time.

    uvicorn has a time limit only for connections that idle between requests; one that never sends, or sends half a
    head for ever, it would keep. Looked for now and then instead of with a timer each: it costs a request nothing.
    """

    def __init__(self, seconds: float, idle_seconds: float) -> None:
        """Close them after so many seconds; up to the time between two calls of `close` later.

        Args:
            seconds: for a request's head.
            idle_seconds: between requests, where uvicorn has no timer: it drops the one that it has when the rest of a
                body comes after its request was answered, and never sets another.
        """
        self._seconds = seconds
        self._idle_seconds = idle_seconds
        # With what a request's first byte replaces, so that another wait is told from the same one.
        self._waiting: dict[Protocols, tuple[Any, float]] = {}

    def close(self, connections: Collection[Protocols], now: float) -> None:
        """Close those of the connections that have been waited for too long at the time `now`."""
        waiting: dict[Protocols, tuple[Any, float]] = {}
        for connection in connections:
            last = getattr(connection, "cycle", None)
            timed = getattr(connection, "timeout_keep_alive_task", None) is not None
            if timed or (last is not None and not last.response_complete):
                continue
            request = getattr(connection, "scope", None)
            # The latest request that began is the one that was answered.
            idle = last is not None and last.scope is request
            before, since = self._waiting.get(connection, (request, now))
            since = since if before is request else now
            if now - since < (self._idle_seconds if idle else self._seconds):
                waiting[connection] = (request, since)
            else:
                connection.transport.close()
        self._waiting = waiting
