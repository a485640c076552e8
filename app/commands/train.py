"""`fovea train`: submit a training job and follow it."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from app.commands.archive import dataset_name
from app.commands.environment import FAILED, UNREACHABLE, Unreachable, backend_options, load_settings
from app.errors import Conflict, InvalidRequest
from app.names import PATTERN

if TYPE_CHECKING:
    from app.commands.backends import Backend
    from app.commands.following import View
    from app.jobs.document import JobDocument
    from app.jobs.spec import TrainingSpec
    from app.store.dataset_report import DatasetReport

_MOST_NAMED = 3

# The spec has the same; it is not imported for `--help`.
ARCHITECTURES = (
    "simple_cnn",
    "resnet_small",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "resnet50_v2",
    "densenet121",
    "convnext_tiny",
)


@click.command()
@click.argument("dataset", required=False)
@click.option("--name", help="Name for a dataset that is added from a path.  [default: made of the path's last part]")
@click.option(
    "--spec",
    "spec_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with any fields of a training spec (docs/training.md); the options here go before it.",
)
@click.option(
    "--search",
    "search_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON file with a search (docs/search.md): its trials go first, and the best is trained.",
)
@click.option("--model", help="Model to add a version to.  [default: named as the dataset]")
@click.option("--architecture", type=click.Choice(ARCHITECTURES), help="Network.")
@click.option("--epochs", type=int, help="Most passes over the training split.  [default: chosen from the data]")
@click.option("--batch-size", type=int, help="Images in a step.  [default: chosen from the data]")
@click.option("--learning-rate", type=float, help="Peak learning rate.")
@click.option("--seed", type=int, help="Seed of all that is random.")
@click.option(
    "--promotion",
    type=click.Choice(["manual", "if_better", "always"]),
    help="Whether the new version becomes the one in production.",
)
@backend_options
@click.option("--detach", is_flag=True, help="Only submit; print the job's id and do not wait. Not with --local.")
def train(
    dataset: str | None,
    name: str | None,
    spec_file: Path | None,
    search_file: Path | None,
    server: str | None,
    key: str | None,
    local: bool,
    detach: bool,
    architecture: str | None,
    **fields: object,
) -> None:
    """Train a model, and watch it.

    DATASET is the name of a dataset, or the path of a folder or archive with one folder a class,
    which is then added first. Built in are digits and shapes.

    Ctrl-C leaves a server's job running and says how to come back to it; with --local it cancels the job.

    Exit status: 0 trained, 1 failed or cancelled, 2 wrong usage or input, 3 the server cannot be reached.
    """
    if local and (server or detach):
        raise click.UsageError("--local needs no server and stays until the job has ended: drop --server and --detach.")
    # What follows the job is imported too before there is one: Ctrl-C meanwhile leaves none behind.
    from app.commands import following  # noqa: F401
    from app.commands.backends import open_backend

    asked = {name: value for name, value in fields.items() if value is not None}
    spec = _read_object(spec_file) | asked
    if search_file is not None:
        spec["search"] = _read_object(search_file)
    if architecture is not None:
        spec["architecture"] = _architecture(spec.get("architecture"), architecture)
    dataset = dataset or spec.get("dataset")
    if not isinstance(dataset, str):
        raise click.UsageError("Name a DATASET, or a spec file with one.")
    # A spec that is wrong is told before anything is uploaded.
    _validate(spec | {"dataset": "to-come"})
    with open_backend(load_settings(), local=local, server=server, key=key) as backend:
        complete = _validate(spec | {"dataset": _resolve(backend, dataset, name)})
        job = backend.submit(complete)
        if detach:
            click.echo(job.id)
            return
        click.echo(f"Job {job.id}: training {complete.model_name} on {complete.dataset}", err=True)
        ended = _follow(backend, job, local=local)
    if ended.state != "succeeded":
        click.get_current_context().exit(FAILED)


def _follow(backend: Backend, job: JobDocument, *, local: bool) -> JobDocument:
    from app.commands.following import follow, print_summary, showing

    try:
        with showing() as view:
            ended = _follow_or_cancel(backend, job, view) if local else follow(backend.follow(job.id), view)
    except KeyboardInterrupt:
        if local:  # before the job was followed, or a second one while it was being cancelled
            with suppress(Conflict):
                backend.cancel(job.id)
            raise
        click.echo(f"\nThe job goes on. Come back to it: {backend.comeback(job.id)}", err=True)
        click.get_current_context().exit(0)
    except Unreachable as error:
        click.echo(f"The server is gone; the job goes on without it. {error}", err=True)
        click.get_current_context().exit(UNREACHABLE)
    print_summary(ended, backend)
    return ended


def _follow_or_cancel(backend: Backend, job: JobDocument, view: View) -> JobDocument:
    """Ctrl-C cancels the job, whose end is then shown where the rest of it was."""
    from app.commands.following import follow

    try:
        return follow(backend.follow(job.id), view)
    except KeyboardInterrupt:
        click.echo("\nCancelling the job.", err=True)
        try:
            backend.cancel(job.id)
        except Conflict as error:  # it has ended just now, or is about to
            click.echo(str(error), err=True)
        return follow(backend.follow(job.id), view)


def _read_object(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InvalidRequest(f"{path} is not JSON: {error}.") from error
    if not isinstance(found, dict):
        raise InvalidRequest(f"{path} holds no JSON object.")
    return found


def _architecture(of_file: object, name: str) -> dict[str, Any]:
    """The file's architecture if it is the one that was asked for, else that one with its defaults."""
    if isinstance(of_file, dict) and of_file.get("name") == name:
        return of_file
    return {"name": name}


def _validate(spec: dict[str, Any]) -> TrainingSpec:
    from pydantic import ValidationError

    from app.api.validation import explain_model
    from app.jobs.spec import TrainingSpec

    try:
        # By way of JSON, as the server reads it: a list is a tuple there.
        return TrainingSpec.model_validate_json(json.dumps(spec))
    except ValidationError as error:
        wrong = explain_model(error, TrainingSpec).rstrip(".")
        raise InvalidRequest(f"The training spec is wrong. {wrong}.") from error


def _resolve(backend: Backend, dataset: str, name: str | None) -> str:
    """Name of the dataset to train on; a path is added first.

    A name that is known wins over a file of that name here; `./digits` is always the file.
    """
    known = backend.datasets()
    if dataset in known:
        if name is not None:
            raise InvalidRequest(f"{dataset} is a dataset already; --name is for one that is added from a path.")
        return dataset
    path = Path(dataset)
    if not path.exists():
        if re.fullmatch(PATTERN, dataset):
            raise InvalidRequest(
                f"There is no dataset {dataset!r} {backend.where()}. Datasets: {', '.join(known)}; or give a path."
            )
        raise InvalidRequest(f"There is no file or folder {dataset!r}. Datasets: {', '.join(known)}; or give a path.")
    name = name or dataset_name(path)
    if name in known:
        raise Conflict(
            f"There is a dataset {name!r} already. Train on it with `fovea train {name}`, or add this one with --name."
        )
    _tell_added(dataset, backend.add(path, name))
    return name


def _tell_added(path: str, report: DatasetReport) -> None:
    """What became of the user's pictures: nobody should find out after the training that half were left out."""
    said = f"Added {path} as dataset {report.name}: {report.images:,} images in {len(report.classes)} classes"
    if report.rejected_files:
        some = [f"{rejected.name} ({rejected.reason.rstrip('.')})" for rejected in report.rejected[:_MOST_NAMED]]
        if report.rejected_files > len(some):
            some.append(f"and {report.rejected_files - len(some):,} more")
        files = "1 file" if report.rejected_files == 1 else f"{report.rejected_files:,} files"
        said += f"; {files} left out: {', '.join(some)}"
    click.echo(f"{said}.", err=True)
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
