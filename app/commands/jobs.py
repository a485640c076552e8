"""`fovea jobs`: come back to training jobs."""

from __future__ import annotations

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

    Exit status: 0 trained, 1 failed or cancelled, 3 the server cannot be reached.
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
        backend.cancel(job)
    click.echo(f"Job {job} is asked to stop.")


@jobs.command()
@click.argument("job")
@click.option("--tail", type=click.IntRange(min=1), help="Only the last so many lines.")
@backend_options
def log(job: str, tail: int | None, local: bool, server: str | None, key: str | None) -> None:
    """Print the end of the log of JOB."""
    with _open(local, server, key) as backend:
        click.echo(backend.log(job, tail), nl=False)


def _open(local: bool, server: str | None, key: str | None) -> AbstractContextManager[Backend]:
    from app.commands.backends import open_backend

    if local and server:
        raise click.UsageError("--local needs no server: drop --server.")
    return open_backend(load_settings(), local=local, server=server, key=key)
