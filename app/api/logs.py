"""The service's log on stderr: one line an event, as text for people or JSON for machines.

Neither can be forged from outside: text has its control characters escaped, JSON by nature.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any, Literal

_FIELDS = ("request_id", "trace_id", "method", "route", "status", "milliseconds")


class JSONLines(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record; a stack trace becomes a field."""
        entry: dict[str, Any] = {
            "at": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=True, default=str)


class TextLines(logging.Formatter):
    """Time, level, message, then `name=value` of what a request had; a stack trace follows indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Render a record."""
        fields = "".join(f" {name}={value}" for name, value in _fields(record).items())
        line = f"{_timestamp(record)} {record.levelname:<7} {_escape(record.getMessage() + fields)}"
        if record.exc_info:
            line += "\n    " + "\n    ".join(map(_escape, self.formatException(record.exc_info).splitlines()))
        return line


def configure(style: Literal["json", "text"], level: str) -> None:
    """Send the log of this process to stderr, and nothing anywhere else."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines() if style == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Said by us, in our words, or of no use to who runs the service.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "asyncio", "PIL"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    return {name: getattr(record, name) for name in _FIELDS if getattr(record, name, None) is not None}


def _timestamp(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _escape(text: str) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
