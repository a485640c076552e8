"""How many calls an engine takes at a time, besides those of the lanes."""

from __future__ import annotations

# No model of more weights answers within the millisecond that the event loop has for one.
MOST_BYTES = 16 * 2**20


def spare_calls(weights: int) -> int:
    """One where the event loop may run the model too, which must not wait for a lane to finish; else none.

    `weights`: the model's, in bytes.
    """
    return 1 if weights <= MOST_BYTES else 0
