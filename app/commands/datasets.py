"""`fovea datasets`: add labelled images to the workspace, and look at them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.commands.archive import dataset_name, packed
from app.commands.environment import Commands, load_settings, open_datasets, print_table, user
from app.counting import counting

if TYPE_CHECKING:
    from app.settings import Settings
    from app.store.dataset_report import DatasetReport, DatasetSummary, Duplicates, Spread

# Uploads of the API are received in the same folder, and so are its leavings cleared.
UPLOADS = "uploads"
_MOST_LISTED = 10
_MOST_COPIES = 3


@click.group(cls=Commands)
def datasets() -> None:
    """Add and inspect labelled images.

    They are kept in the workspace (FOVEA_WORKSPACE), where servers on the same workspace find them.
    """


@datasets.command()
@click.argument("path", type=click.Path(exists=True, path_type=Path))
@click.option("--name", help="Name of the new dataset.  [default: made of the path's last part]")
def add(path: Path, name: str | None) -> None:
    """Add a folder or an archive as a dataset.

    PATH is a folder, or a zip, tar, tar.gz or tar.bz2. It has one folder a class, at any common
    depth, or a labels.csv of path,label. Every image is checked; what cannot be used is left out
    and listed.
    """
    print_report(add_local(load_settings(), path, name or dataset_name(path)))


@datasets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document a line.")
def list_(as_json: bool) -> None:
    """List the datasets."""
    settings = load_settings()
    summaries = open_datasets(settings).list()
    if as_json:
        for summary in summaries:
            click.echo(summary.model_dump_json())
        return
    print_table(("NAME", "IMAGES", "CLASSES", "ADDED", "DESCRIPTION"), [_row(summary) for summary in summaries])
    if all(summary.builtin for summary in summaries):
        click.echo(f"No others in {settings.workspace.absolute()} (FOVEA_WORKSPACE).", err=True)


@datasets.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the full report as JSON.")
def show(name: str, as_json: bool) -> None:
    """Show one dataset.

    That is: what is in the dataset NAME, what was left out of it, and what is odd about it.
    """
    report = open_datasets(load_settings()).report(name)
    if as_json:
        click.echo(report.model_dump_json(indent=2))
    else:
        print_report(report)


def add_local(settings: Settings, path: Path, name: str) -> DatasetReport:
    """Add a folder or an archive to the workspace, with progress on a terminal.

    Raises:
        Conflict, InvalidName, InvalidDataset, StorageFailed: as `Datasets.add`.
        InvalidRequest: nothing is at `path`.
    """
    with packed(path, settings.workspace / UPLOADS) as archive, counting("Checking", "files") as checking:
        return open_datasets(settings).add(name, archive, by=user(), progress=checking)


def print_report(report: DatasetReport) -> None:
    """What a person wants to know of a dataset."""
    click.echo(f"Dataset {report.name}: {report.images:,} images in {len(report.classes)} classes")
    if report.description:
        click.echo(report.description)
    column = max(map(len, report.classes), default=0)
    digits = max((len(f"{images:,}") for images in report.classes.values()), default=0)
    for label, images in report.classes.items():
        click.echo(f"  {label.ljust(column)}  {f'{images:,}'.rjust(digits)}")
    width, height = _span(report.sizes.width), _span(report.sizes.height)
    color = "greyscale" if report.grayscale else "colour"
    click.echo(f"Sizes: {width} x {height} pixels, {color}")
    for warning in report.warnings:
        click.echo(f"Warning: {warning}")
    _print_groups(report, "Duplicates", report.duplicate_files, report.duplicates)
    _print_groups(report, "Look the same", report.near_duplicate_files, report.near_duplicates)
    if report.extreme_sizes:
        click.echo(f"Extreme sizes: {report.extreme_size_files:,} files")
        for extreme in report.extreme_sizes[:_MOST_LISTED]:
            click.echo(f"  {extreme.name}: {extreme.width} x {extreme.height}. {extreme.reason}")
        _print_more(report, report.extreme_size_files)
    if report.rejected_files:
        click.echo(f"Left out: {report.rejected_files:,} files")
        for rejected in report.rejected[:_MOST_LISTED]:
            click.echo(f"  {rejected.name}: {rejected.reason}")
        _print_more(report, report.rejected_files)


def _span(sizes: Spread) -> str:
    return str(sizes.min) if sizes.min == sizes.max else f"{sizes.min}–{sizes.max}"


def _print_more(report: DatasetReport, found: int) -> None:
    if found > _MOST_LISTED:
        click.echo(f"  … more of them: fovea datasets show {report.name} --json")


def _print_groups(report: DatasetReport, title: str, files: int, groups: Sequence[Duplicates]) -> None:
    if not groups:
        return
    click.echo(f"{title}: {files:,} files")
    for group in groups[:_MOST_LISTED]:
        copies = ", ".join(group.copies[:_MOST_COPIES])
        more = len(group.copies) - _MOST_COPIES
        labels = f" (as {', '.join(group.labels)})" if len(group.labels) > 1 else ""
        click.echo(f"  {group.name} = {copies}{f' and {more:,} more' if more > 0 else ''}{labels}")
    _print_more(report, len(groups))


def _row(summary: DatasetSummary) -> tuple[object, ...]:
    if summary.problem is not None:
        return (summary.name, "-", "-", "-", summary.problem)
    return (summary.name, f"{summary.images:,}", summary.class_count, _origin(summary), summary.description)


def _origin(summary: DatasetSummary) -> str:
    if summary.builtin:
        return "built in"
    return f"{summary.created_at:%Y-%m-%d %H:%M}" if summary.created_at else "-"
