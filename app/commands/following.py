"""A training job on the terminal: a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

import click
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from app.commands.backends import Backend, News
from app.jobs.document import JobDocument, why
from app.jobs.folder import Progress

# Columns of a terminal from which on all scores of an epoch have room beside the bar; else it is the last one.
_WIDE = 110
_LONGEST_STAGE = 44


class View(Protocol):
    """What shows how a job gets on."""

    def show(self, news: News) -> None:
        """Show the job as it is now; lines of progress that were shown already are known by their numbers."""
        ...


def follow(told: Iterable[News], view: View) -> JobDocument:
    """Show a job until it has ended; returns it as it ended."""
    last: JobDocument | None = None
    for news in told:
        view.show(news)
        last = news.document
    if last is None:
        raise RuntimeError("a job is told of at least once")
    return last


def print_summary(document: JobDocument, backend: Backend) -> None:
    """What came of a job that has ended, and what can be done with it."""
    result = document.result
    if document.state != "succeeded" or result is None:
        click.echo(f"Job {document.id} {document.state}: {document.reason or 'no reason was given.'}", err=True)
        return
    accuracy, low, high = (result.metrics.get(name) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    interval = "" if low is None or high is None else f" ({low:.4f} to {high:.4f})"
    measured = "" if accuracy is None else f", accuracy {accuracy:.4f}{interval} on the test split"
    click.echo(f"Trained {result.model} version {result.version}{measured}.")
    for warning in result.warnings:
        click.echo(f"Warning:  {warning}")
    click.echo(f"Report:   {backend.report(result.model, result.version)}")
    click.echo(f"Promoted: {'yes' if result.promoted else 'no'} ({why(result)})")
    if not result.promoted:
        # Where it had to be better and was not, promoting it is against the odds.
        hint = "Promote anyway:" if document.spec.promotion == "if_better" else "Promote: "
        click.echo(f"{hint} {backend.promotion(result.model, result.version)}")


class _Lines:
    """Each thing that happens as a line, once; none is left out."""

    def __init__(self) -> None:
        self._said: str | None = None
        self._seen = 0

    def show(self, news: News) -> None:
        for number, line in news.lines:
            if number > self._seen:
                self._seen, self._said = number, None
                click.echo(_progress_line(line))
        now = _before_the_trainer(news.document)
        if now is not None and now != self._said:
            self._said = now
            click.echo(now)


def _before_the_trainer(document: JobDocument) -> str | None:
    """What no line of progress tells: the trainer does not work yet, or is to stop."""
    if document.final:
        return None
    if document.cancel_requested:
        return "cancelling"
    if document.state == "queued" or document.phase == "queue":
        return document.message or _waiting(document.ahead)
    return "starting the trainer" if document.phase is None else None


def _stage(document: JobDocument) -> str | None:
    """What the job is at, where that is not an epoch."""
    if document.final:
        return None
    if (before := _before_the_trainer(document)) is not None:
        return before
    return None if document.phase in (None, "fit") else _said(document.phase, document.message)


def _waiting(ahead: int | None) -> str:
    before = f": {ahead:,} {'job' if ahead == 1 else 'jobs'} before it" if ahead else ""
    return f"waiting for its turn{before}"


def _said(phase: str, message: str | None) -> str:
    """A trainer's word, after what it is about unless it says so itself."""
    if phase == "search" and message:
        return message
    return f"{phase}: {message}" if message else phase


def _progress_line(line: Progress) -> str:
    if line.epoch is not None:
        return _epoch_line(line)
    said = line.message if line.step is not None and line.message else _said(line.phase, line.message)
    return said if line.remaining_seconds is None else f"{said}; {_duration(line.remaining_seconds)} left"


def _epoch_line(line: Progress) -> str:
    parts = [f"epoch {line.epoch}/{line.epochs or '?'}", *_scores(line)]
    if line.seconds is not None:
        parts.append(f"{line.seconds:.1f} s")
    if line.remaining_seconds is not None:
        parts.append(f"{_duration(line.remaining_seconds)} left")
    return "  ".join(parts)


def _scores(line: Progress) -> list[str]:
    named = [("loss", line.loss), ("accuracy", line.accuracy), ("validation", line.val_accuracy)]
    return [f"{name} {value:.4f}" for name, value in named if value is not None]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


@contextmanager
def showing() -> Iterator[View]:
    """A bar on a terminal, for the length of the block; lines elsewhere."""
    console = Console()
    if not console.is_terminal:
        yield _Lines()
        return
    # What is shown holds names and messages of others: no markup in them means anything.
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    all_scores = console.width >= _WIDE
    with Bars(*columns, console=console) as bars:
        task = bars.add_task("training", total=None, detail="")

        class Bar:
            def show(self, news: News) -> None:
                document = news.document
                line = document.history[-1] if document.history else None
                stage = _stage(document) or (document.state if document.final else None)
                # Beside the words of a stage there is no room for the last epoch's figures.
                details = _scores(line)[0 if all_scores else -1 :] if line and stage is None else []
                if document.remaining_seconds is not None and (stage is None or document.phase == "search"):
                    details.append(f"{_duration(document.remaining_seconds)} left")
                epochs = f"epoch {document.epoch}/{document.epochs}" if document.epoch else "training"
                # Early stopping ends before the last epoch; a job that is done is done.
                done = document.epochs if document.state == "succeeded" else document.epoch or 0
                total = document.epochs if document.epoch or document.final else None
                searching = document.phase == "search" and not document.final
                bars.update(
                    task,
                    description=_shortened(stage or epochs),
                    completed=document.trial if searching else done,
                    total=document.trials if searching else total,
                    detail="  ".join(details),
                )

        yield Bar()


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_STAGE else f"{text[: _LONGEST_STAGE - 1].rstrip()}…"
