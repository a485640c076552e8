"""The one pattern that names of models, datasets and jobs must match.

It admits no separator, dot, space, percent sign or non-ASCII character, so a name that
passed can stand in a path, a URL, a metric label and a log line as it is.
"""

from __future__ import annotations

import re

from app.errors import InvalidName

PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def check_name(name: str, what: str) -> str:
    """Return `name` if it is a valid name for a `what` ("model", "dataset", "job").

    Raises:
        InvalidName: naming the pattern that is allowed.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidName(
            f"{name[:80]!r} is not a valid {what} name. Allowed: 1 to 63 characters out of a-z, 0-9, "
            "'-' and '_', the first of them a letter or a digit."
        )
    return name
