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

    def __init__(self, seconds: float) -> None:
        """Close them after so many seconds; up to the time between two calls of `close` later."""
        self._seconds = seconds
        # With the last request before, so that another wait is told from the same one.
        self._waiting: dict[Protocols, tuple[Any, float]] = {}

    def close(self, connections: Collection[Protocols], now: float) -> None:
        """Close those of the connections that have been waited for too long at the time `now`."""
        waiting: dict[Protocols, tuple[Any, float]] = {}
        for connection in connections:
            last = getattr(connection, "cycle", None)
            idle = getattr(connection, "timeout_keep_alive_task", None) is not None
            if idle or (last is not None and not last.response_complete):
                continue
            before, since = self._waiting.get(connection, (last, now))
            since = since if before is last else now
            if now - since < self._seconds:
                waiting[connection] = (last, since)
            else:
                connection.transport.close()
        self._waiting = waiting
