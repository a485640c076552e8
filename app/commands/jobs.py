"""`fovea jobs`: come back to training jobs."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import click

from app.commands.environment import FAILED, Commands, backend_options, load_settings, print_table

if TYPE_CHECKING:
    from app.commands.backends import Backend


@click.group(cls=Commands)
def jobs() -> None:
    """Come back to training jobs.

    They are those of a running server, or with --local of the workspace.
    """


@jobs.command("list")
@backend_options
def list_(local: bool, server: str | None, key: str | None) -> None:
    """List the jobs, the newest first."""
    with _open(local, server, key) as backend:
        listed = backend.jobs()
        where = backend.where()
    rows: list[tuple[object, ...]] = [
        (
            job.id,
            job.state,
            job.spec.dataset,
            job.spec.model_name,
            job.result.version if job.result else "-",
            (job.reason or "").partition("\n")[0],
        )
        for job in listed.jobs
    ]
    rows += [(job.id, "unreadable", "-", "-", "-", job.problem) for job in listed.unreadable]
    rows.sort(key=lambda row: str(row[0]), reverse=True)
    if not rows:
        click.echo(f"No training jobs {where}.", err=True)
        return
    print_table(("JOB", "STATE", "DATASET", "MODEL", "VERSION", "REASON"), rows)


@jobs.command()
@click.argument("job")
@backend_options
def follow(job: str, local: bool, server: str | None, key: str | None) -> None:
    """Follow JOB to its end. Ctrl-C leaves it alone.

    Exit status: 0 trained, 1 failed or cancelled, 2 wrong usage or input, 3 the server cannot be reached.
    """
    from app.commands.following import follow, print_summary, showing

    with _open(local, server, key) as backend:
        try:
            with showing() as view:
                ended = follow(backend.follow(job), view)
        except KeyboardInterrupt:
            click.echo("\nThe job goes on.", err=True)
            return
        print_summary(ended, backend)
    if ended.state != "succeeded":
        click.get_current_context().exit(FAILED)


@jobs.command()
@click.argument("job")
@backend_options
def cancel(job: str, local: bool, server: str | None, key: str | None) -> None:
    """Ask JOB to stop.

    One that waits stops at once, one that runs within seconds. Once its version is being
    registered it is too late.
    """
    with _open(local, server, key) as backend:
        cancelled = backend.cancel(job)
    click.echo(f"Job {job} {'is cancelled' if cancelled.state == 'cancelled' else 'is asked to stop'}.")


@jobs.command()
@click.argument("job")
@click.option("--tail", type=click.IntRange(min=1), help="Only the last so many lines.")
@backend_options
def log(job: str, tail: int | None, local: bool, server: str | None, key: str | None) -> None:
    """Print the end of the log of JOB."""
    with _open(local, server, key) as backend:
        click.echo(backend.log(job, tail), nl=False)


@jobs.command()
@click.argument("job")
@backend_options
def trials(job: str, local: bool, server: str | None, key: str | None) -> None:
    """List what the search of JOB has tried, the best first."""
    from app.jobs.trials import ranking

    with _open(local, server, key) as backend:
        searched = backend.trials(job)
    if searched.search is None:
        click.echo(f"Job {job} searches for nothing: its spec has no `search`.", err=True)
        return
    ranked = ranking(searched.trials, searched.search)
    others = [trial for trial in searched.trials if trial not in ranked]
    paths = [*searched.search.space]
    rows = [
        (
            trial.number,
            "best" if trial.number == searched.best and searched.done else trial.state,
            "-" if trial.val_accuracy is None else f"{trial.val_accuracy:.4f}",
            "-" if trial.val_loss is None else f"{trial.val_loss:.4f}",
            len(trial.curve) or "-",
            *(json.dumps(trial.values.get(path)) for path in paths),
        )
        for trial in [*ranked, *others]
    ]
    print_table(("TRIAL", "STATE", "ACCURACY", "LOSS", "EPOCHS", *(path.upper() for path in paths)), rows)
    if searched.importances:
        shares = ", ".join(f"{path} {share:.0%}" for path, share in searched.importances.items())
        click.echo(f"Importances: {shares}")
    if searched.remark:
        click.echo(searched.remark)
    for trial in searched.trials:
        if trial.placement and trial.state == "queued":
            at = trial.placement
            click.echo(f"Trial {trial.number} waits at {at.scheduler} for {at.asked_for}, as {at.submission}.")
        if trial.reason:
            click.echo(f"Trial {trial.number} failed: {trial.reason}", err=True)


def _open(local: bool, server: str | None, key: str | None) -> AbstractContextManager[Backend]:
    from app.commands.backends import open_backend

    if local and server:
        raise click.UsageError("--local needs no server: drop --server.")
    return open_backend(load_settings(), local=local, server=server, key=key)
