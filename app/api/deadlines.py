"""By when a request is to be answered."""

from __future__ import annotations

import re
import time

from app.api.bodies import printable
from app.errors import InvalidRequest
from app.settings import Settings

TIMEOUT = "fovea-timeout-ms"

_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


def parse_deadline(text: str | None, settings: Settings) -> float:
    """When the request is given up, by `time.monotonic`: after what `text`, the value of its header Fovea-Timeout-Ms,
    allows, and at the latest after what the service allows.

    Raises:
        InvalidRequest: the header's value is not allowed; the message says what is.
    """
    seconds = settings.request_timeout
    if text is not None:
        if _NUMBER.fullmatch(text) is None:
            raise InvalidRequest(
                f"Fovea-Timeout-Ms: {printable(text[:40])!r} is not allowed. Allowed: a whole number of milliseconds, "
                "from 1 up."
            )
        seconds = min(seconds, int(text) / 1000)
    return time.monotonic() + seconds
