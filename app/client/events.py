"""A training job's server-sent events, over connections that may break. No network here."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import TypeAlias
from urllib.parse import quote

from pydantic import ValidationError

from app.client.documents import JobState, Progress
from app.client.errors import Busy, ClientError, Problem
from app.client.exchange import Request, Send

# Seconds without a line after which a connection is taken for dead; a server that is well says something within 15.
_SILENCE = 60.0
_PAUSE = 0.3


Event: TypeAlias = Progress | JobState


class Following:
    """What has been heard of a job so far, and whether to go on listening."""

    def __init__(self, job_id: str, patience: float) -> None:
        """`patience`: seconds for which a server that has gone away is waited for."""
        self.over = False
        self._path = f"training-jobs/{quote(job_id, safe='')}/events"
        self._patience = patience
        self._away_since: float | None = None
        self._seen = ""
        self._kind = ""
        self._data: list[str] = []

    def request(self) -> Send:
        """Listen, from where it was broken off."""
        headers = {"Last-Event-ID": self._seen} if self._seen else {}
        return Send(Request("GET", self._path), headers, _SILENCE)

    def hear(self, line: str) -> Iterator[Event | None]:
        """The event that a line completes, if it does; None for a sign of life.

        The format: https://html.spec.whatwg.org/multipage/server-sent-events.html
        """
        self._away_since = None
        if line == "":
            event = self._event()
            self._kind, self._data = "", []
            yield event
            return
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "id":
            self._seen = value
        elif field == "event":
            self._kind = value
        elif field == "data":
            self._data.append(value)

    def pause(self, error: ClientError | None) -> float:
        """Seconds to wait after the connection has ended, with `error` or without one.

        Raises:
            ClientError: that error, if it is not one of the moment or the patience is at its end.
        """
        self._kind, self._data = "", []
        if isinstance(error, Problem) and not isinstance(error, Busy):
            raise error
        if self._away_since is None:
            self._away_since = time.monotonic()
        elif time.monotonic() - self._away_since > self._patience:
            raise error or Problem(200, "unexpected_answer", f"There are no events of {self._path}.")
        return _PAUSE

    def _event(self) -> Event | None:
        if not self._data:
            return None
        try:
            data = json.loads("\n".join(self._data))
            if self._kind == "progress":
                return Progress.model_validate(data)
            if self._kind == "state":
                state = JobState.model_validate(data)
                self.over = state.final
                return state
        except (ValueError, ValidationError) as error:
            raise Problem(200, "unexpected_answer", f"An event of {self._path} is not as expected.") from error
        return None
