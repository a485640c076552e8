"""`fovea keys`: make API keys."""

from __future__ import annotations

import sys

import click

from app.commands.environment import Commands


@click.group(cls=Commands)
def keys() -> None:
    """Make API keys."""


@keys.command()
@click.option("--name", required=True, help="Whose key it is; it shows in logs and in the promotion log.")
@click.option(
    "--scope",
    "scopes",
    required=True,
    multiple=True,
    type=click.Choice(["predict", "train", "admin"]),
    help="What the key may do; can be given several times. admin may do everything.",
)
def new(name: str, scopes: tuple[str, ...]) -> None:
    """Make a key.

    Prints it, and the line for the file that FOVEA_API_KEYS names.
    The key is shown this once; the file holds its SHA-256 only. On standard output stands the
    line alone, so that `fovea keys new --name me --scope predict >> keys` works.
    """
    from app.api.security import make_key

    key, line = make_key(name, scopes)
    click.echo(f"Key (shown this once): {key}", err=True)
    shown = sys.stdout.isatty()
    click.echo("Line for the file of keys:" if shown else "Its line went to standard output.", err=True)
    click.echo(line)
