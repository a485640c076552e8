"""The queue before an engine's lanes, in which each call gets a turn: one image does not wait behind hundreds."""

from __future__ import annotations

from queue import Empty, SimpleQueue

from app.serving.ticket import Ticket

Work = tuple[Ticket, int]
"""One image: a call, and the image's position in it."""


class Turns:
    """First come, first served, one image at a time, round and round over the calls. Thread-safe.

    It is not bounded: what enters it was admitted before. Calls that are over are dropped when their turn comes.
    """

    def __init__(self, lanes: int) -> None:
        """`lanes`: how many take from it at a time."""
        self._lanes = lanes
        # Each call is in it at most once, so whoever takes it out has it to himself.
        self._calls: SimpleQueue[Ticket | _Rest | None] = SimpleQueue()

    def put(self, ticket: Ticket) -> None:
        """Add all images of a call."""
        self._calls.put(ticket)

    def give_back(self, work: list[Work]) -> None:
        """Put back what was taken and not begun; it waits behind those that are there."""
        if work:
            self._calls.put(_Rest(work))

    def close(self) -> None:
        """Have `take` return nothing from now on, in every lane."""
        self._calls.put(None)

    def take(self, limit: int) -> list[Work]:
        """Wait for work; then take what is there, at most `limit` images and at most a lane's share.

        Returns nothing only when the queue is closed.
        """
        taken: list[Work] = []
        call = self._calls.get()
        if self._lanes > 1 and call is not None:
            share = -(-(call.waiting + self._calls.qsize()) // self._lanes)
            limit = max(1, min(limit, share))
        while call is not None:
            if not call.over:
                # Alone in the queue, a call need not go round.
                turn = 1 if self._calls.qsize() else limit - len(taken)
                taken.extend(call.begin(turn))
                if call.waiting:
                    self._calls.put(call)
            if len(taken) >= limit:
                return taken
            try:
                # Never wait with work in hand.
                call = self._calls.get_nowait() if taken else self._calls.get()
            except Empty:
                return taken
        self._calls.put(None)  # for the other lanes, and for the next time
        return taken


class _Rest:
    """Images that a lane had taken, of any calls."""

    over = False

    def __init__(self, work: list[Work]) -> None:
        self._work = work

    @property
    def waiting(self) -> int:
        return len(self._work)

    def begin(self, most: int) -> list[Work]:
        begun, self._work = self._work[:most], self._work[most:]
        return begun
