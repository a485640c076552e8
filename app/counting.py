"""A bar for work that can be counted, on a terminal; nothing elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Count = Callable[[int, int | None], None]


@contextmanager
def counting(what: str, unit: Literal["files", "bytes"], then: str | None = None) -> Iterator[Count]:
    """Yields what is to be called with how much is done and, if known, of how much.

    `then` takes the place of `what` once all is done and the answer is waited for.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn

    console = Console(stderr=True)
    number = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), number)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def count(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total, description=then if then and done == total else what)

        yield count
