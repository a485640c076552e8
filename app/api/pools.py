"""Threads for what takes long, so that it never holds up what does not.

The loop's own few threads (`asyncio.to_thread`) read promotion logs, load models and reread keys. Whatever may take
minutes, comes in numbers that clients choose, or waits on a disk that may hang, has threads of its own here: then it
waits for its like only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")


class Pools:
    """Small pools, one for each kind of long work. A pool starts its threads when it is first used."""

    def __init__(self) -> None:
        # Each check uses all cores by itself. The second lets a small dataset pass a large one.
        self.checking = _pool(2, "check")
        """Archives being unpacked and checked; others wait their turn, stored already."""
        self.receiving = _pool(4, "receive")
        """Pieces of uploads on their way to the disk."""
        self.following = _pool(2, "follow")
        """Looks at the folders of jobs whose events are streamed."""
        self.explaining = _pool(1, "explain")
        """Questions to the process that looks into models, one at a time."""
        self.scraping = _pool(1, "scrape")
        """Rendering the metrics, which counts the jobs on disk."""

    def close(self) -> None:
        """Begin nothing more. What runs is not waited for."""
        for pool in (self.checking, self.receiving, self.following, self.explaining, self.scraping):
            pool.shutdown(wait=False, cancel_futures=True)


async def run_in(
    pool: ThreadPoolExecutor,
    function: Callable[_Arguments, _Result],
    /,
    *arguments: _Arguments.args,
    **options: _Arguments.kwargs,
) -> _Result:
    """Call a function in a thread of `pool`, when one is free. Cancelled before that, it is never called."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*arguments, **options))


def _pool(threads: int, name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix=name)
