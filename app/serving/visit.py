"""One image that is answered on the event loop, from its admission to its answer, without a task that waits for it."""

from __future__ import annotations

from collections.abc import Callable

from app.errors import DeadlineExceeded, NotReady
from app.metrics import Metrics
from app.serving.admission import Admission
from app.serving.batching import Engine
from app.serving.tensors import Image
from app.serving.ticket import Lone, Result, Ticket


class Visit:
    """Holds what `Classifier.classify` holds for the time of a call: a place in the queue, and the engine.

    Belongs to one event loop.
    """

    __slots__ = ("_admission", "_metrics", "_then", "_ticket", "_tickets", "engine", "result")

    def __init__(
        self,
        image: Image,
        then: Callable[[Visit], None],
        engine: Engine,
        admission: Admission,
        metrics: Metrics,
        tickets: set[Ticket],
        deadline: float,
    ) -> None:
        """Begins at once.

        Args:
            image: one that the engine takes here.
            then: called once, with this, when `result` is there, unless the visit was left before.
            engine: not retired.
            admission: has room.
            tickets: of all calls inside; the one of this call is among them while it lasts.
            deadline: by `time.monotonic`.
        """
        self.result: Result | None = None
        self._then: Callable[[Visit], None] | None = then
        self.engine = engine
        """What answers, or has answered."""
        self._admission = admission
        self._metrics = metrics
        self._tickets = tickets
        self._ticket = Lone(image, self._end, loop=engine.loop, deadline=deadline)
        tickets.add(self._ticket)
        admission.change(1)
        engine.begin_here(self._ticket)

    def leave(self) -> None:
        """Give the place back before there is a result; afterwards it does nothing."""
        if not self._ticket.over:
            self._ticket.abandon()
            self._depart(answered=False)

    def _end(self, result: Result) -> None:
        if isinstance(result, DeadlineExceeded):
            self._metrics.rejected(result.code)
        self._depart(answered=not isinstance(result, DeadlineExceeded | NotReady))
        self.result = result
        # Let go of who is told, who holds this visit.
        then, self._then = self._then, None
        if then is not None:
            then(self)

    def _depart(self, *, answered: bool) -> None:
        self._tickets.discard(self._ticket)
        self._admission.change(-1)
        self.engine.end_here(answered=answered)
